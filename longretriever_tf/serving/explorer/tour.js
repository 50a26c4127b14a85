// A tour of the page, for whoever has not been here; asked for again by its button.

import { h, replace } from "./dom.js";

const KEY = "longretriever-tour";
const STEPS = [
  ["picker", "One user", "Choose whose list to look at, or paste a history of your own. “Past events” shows all that this user did; where the file holds what the user did afterwards, that is shown too."],
  ["settings", "The request", "What the model is asked for: which interests it searches, how long the list is, how the interests' lists are merged. Every change asks the model again."],
  ["list", "The list", "What the model recommends, best first, and for each item which interest brought it. A hit is an item that the user really took afterwards. The × leaves an item out."],
  ["interests", "The interests", "Each category is an interest. The bar is its score: how probable it is that the user's next item belongs to it. Press a score to see how it comes about; set a rule to always or never search a category."],
  ["candidates", "Each interest's own list", "Every interest is searched by itself. Here are the best items of each, before the lists are merged into one."],
  ["compare", "Two settings", "“Compare with a second setting” shows two lists side by side. The address of this page holds the user and the settings: copy it to show someone else what you see."],
];

/** Remembers that the tour was offered; storage may be forbidden, then it is offered again. */
function remember() {
  try {
    localStorage.setItem(KEY, "seen");
  } catch {
    // it is offered again
  }
}

function isFirstVisit() {
  try {
    return localStorage.getItem(KEY) === null;
  } catch {
    return true;
  }
}

/** Makes `button` start the tour, and offers it in `invitation` to a first visitor. */
export function setUpTour(button, invitation) {
  const panel = h("section", { id: "tour", role: "dialog", "aria-labelledby": "tour-title", "aria-describedby": "tour-text", hidden: true });
  document.body.append(panel);
  let target = null;

  const leave = () => {
    target?.classList.remove("toured");
    panel.hidden = true;
    document.body.classList.remove("touring");
    button.focus();
  };
  const go = (number) => {
    target?.classList.remove("toured");
    const [id, title, text] = STEPS[number];
    target = document.getElementById(id);
    target?.classList.add("toured");
    const isLast = number === STEPS.length - 1;
    panel.hidden = false;
    replace(
      panel,
      h("h2", { id: "tour-title" }, title, h("span", { class: "muted" }, ` ${number + 1} of ${STEPS.length}`)),
      h("p", { id: "tour-text" }, text),
      h(
        "div",
        { class: "row" },
        h("button", { type: "submit", "data-key": "tour-next", onclick: () => (isLast ? leave() : go(number + 1)) }, isLast ? "Done" : "Next"),
        number > 0 && h("button", { type: "button", "data-key": "tour-back", onclick: () => go(number - 1) }, "Back"),
        !isLast && h("button", { type: "button", class: "quiet", onclick: leave }, "End the tour"),
      ),
    );
    document.body.classList.add("touring");
    panel.querySelector("[data-key=tour-next]").focus({ preventScroll: true });
    target?.scrollIntoView({ block: "start" });
  };
  const start = () => {
    remember();
    replace(invitation);
    go(0);
  };

  panel.addEventListener("keydown", (event) => event.key === "Escape" && leave());
  button.addEventListener("click", start);
  if (!isFirstVisit()) return;
  const decline = () => {
    remember();
    replace(invitation);
    button.focus();
  };
  replace(
    invitation,
    h(
      "div",
      { class: "invitation" },
      h("p", {}, h("b", {}, "First time here? "), "This page shows how a list of recommendations comes about: from what one user did, over the user's interests, to the list."),
      h("div", { class: "row" }, h("button", { type: "button", onclick: start }, "Show me around"), h("button", { type: "button", class: "quiet", onclick: decline }, "No, thanks")),
    ),
  );
}
