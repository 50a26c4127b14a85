// Light, dark, or as the system says.

import { replace } from "./dom.js";

const KEY = "longretriever-theme";
const NEXT = { auto: "light", light: "dark", dark: "auto" };

function read() {
  try {
    return localStorage.getItem(KEY) ?? "auto";
  } catch {
    return "auto"; // storage may be forbidden
  }
}

/** Makes `button` go round: system, light, dark. */
export function setUpTheme(button) {
  let theme = read() in NEXT ? read() : "auto";
  const show = () => {
    document.documentElement.dataset.theme = theme;
    replace(button, `Theme: ${theme === "auto" ? "system" : theme}`);
  };
  button.addEventListener("click", () => {
    theme = NEXT[theme];
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // it holds for this visit
    }
    show();
  });
  show();
}
