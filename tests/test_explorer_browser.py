"""The explorer page in a real Chromium: what it shows is what the endpoint answers, and anyone can use it."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from serving_clients import serving
from worlds import START, block_world

from longretriever_tf.common.schema import DAY_S
from longretriever_tf.serving.client.client import Client, Request
from longretriever_tf.serving.explorer.users import HeldOut, sample_users
from longretriever_tf.serving.server import config_files

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytestmark = pytest.mark.serving

AS_OF = START + 120 * DAY_S
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1360, "height": 900}


def chromium_path(driver) -> str:
    """Debian's Chromium, or the one that `playwright install chromium` fetched."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    if os.path.exists(driver.chromium.executable_path):
        return driver.chromium.executable_path
    return pytest.skip("no Chromium: apt-get install chromium, or python -m playwright install chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = driver.chromium.launch(executable_path=chromium_path(driver), args=flags)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def users():
    log = block_world(num_users=53, num_items=97)
    window = HeldOut(AS_OF + 14 * DAY_S, log.items.item_id > 0)
    return sample_users(log, AS_OF, 3, window=window)


@pytest.fixture(scope="module")
def url(trained, users, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "users.json"
    path.write_text(json.dumps({"made_up": False, "users": users}))
    config = config_files.one_model("longretriever", trained.export_dir)
    with serving(config, explorer=True, warm=False, explorer_users=str(path)) as server:
        yield f"http://127.0.0.1:{server.rest_port}"


@pytest.fixture
def page(browser, url):
    """The page with the first user's list; fails on anything that it reports or asks of others."""
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    page.set_default_timeout(180_000)
    page.faults, page.asked = [], []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(f"{url}/explorer/")
    settle(page)
    yield page
    assert page.faults == []
    assert [asked for asked in page.asked if not asked.startswith(url)] == []
    context.close()


def settle(page) -> None:
    """Waits until the list on the page is that of the settings on the page."""
    page.wait_for_selector("body:not([aria-busy])")


def listed(page, side: str = "A") -> list[str]:
    return page.locator(f".pane[data-side={side}] [data-item]").evaluate_all("rows => rows.map(r => r.dataset.item)")


def drawn(page) -> set[str]:
    return set(page.locator(".interest.on").evaluate_all("rows => rows.map(r => r.dataset.category)"))


def ask(url, user, **request_options):
    """The answer of the same endpoint to a client of its own."""
    history = {"history_item_id": user["item_id"], "history_timestamp": user["timestamp"]}
    request = Request(
        **history, request_timestamp=user["request_timestamp"], profile=user["profile"], **request_options
    )
    with Client(url) as client:
        return client.retrieve([request])[0]


def expect(page, url, user, side="A", **request_options) -> None:
    answer = ask(url, user, **({"k": 20, "seed": 1} | request_options))
    assert listed(page, side) == [str(candidate.item_id) for candidate in answer.candidates]


def test_the_list_is_the_responses_list_whatever_is_turned(page, url, users):
    expect(page, url, users[0])
    page.select_option("#user", "1")
    settle(page)
    expect(page, url, users[1])
    page.fill("#numInterests-A", "2")
    settle(page)
    expect(page, url, users[1], num_interests=2)
    for seed in (2, 3, 4):
        page.fill("#seed-A", str(seed))
        settle(page)
        expect(page, url, users[1], num_interests=2, seed=seed)
    answer = ask(url, users[1], k=20, num_interests=2, seed=4)
    assert drawn(page) == {interest.category for interest in answer.interests} and len(drawn(page)) == 2
    forbidden = answer.interests[0].category
    page.fill("#category-A", forbidden)
    page.click("text=Never search >> nth=0")
    settle(page)
    expect(page, url, users[1], num_interests=2, seed=4, forbidden_category=[forbidden])
    assert page.locator(".chip.forbidden").inner_text().startswith(f"never search: {forbidden}")
    page.click(".chip button")
    settle(page)
    expect(page, url, users[1], num_interests=2, seed=4)


def test_every_other_option_reaches_the_endpoint(page, url, users):
    user = users[0]
    page.fill("#k-A", "7")
    page.select_option("#merge-A", "round_robin")
    settle(page)
    expect(page, url, user, k=7, merge="round_robin")
    page.fill("#topInterests-A", "6")
    page.fill("#numInterests-A", "3")
    page.fill("#exploration-A", "1")
    settle(page)
    expect(page, url, user, k=7, merge="round_robin", num_interests=3, top_interests=6, exploration=1)
    page.click("text=Reset")
    settle(page)
    page.check("#onlyNew-A")
    settle(page)
    expect(page, url, user, goal="novel")
    assert not set(listed(page)) & set(map(str, user["item_id"]))
    out = listed(page)[0]
    page.click(f"[data-item='{out}'] button")
    settle(page)
    expect(page, url, user, goal="novel", exclude_item_id=[int(out)])
    assert out not in listed(page)
    page.select_option("[data-key='rule-c3']", "forced")
    settle(page)
    expect(page, url, user, goal="novel", exclude_item_id=[int(out)], forced_category={"c3": 1.0})


def test_every_category_can_be_searched_and_so_can_all_that_can_enter_the_list(page, url, users):
    page.select_option("#search-A", "every")
    settle(page)
    expect(page, url, users[0], num_interests=7, top_interests=7)
    assert len(drawn(page)) == 7 and "Every interest is searched, 7 in all." in page.locator(".draw").inner_text()
    page.select_option("#search-A", "likely")
    page.fill("#topInterests-A", "1")
    page.fill("#threshold-A", "-2.5")
    settle(page)
    expect(page, url, users[0], num_interests=0, top_interests=1, interest_threshold=-2.5)
    assert 1 <= len(drawn(page)) < 7
    assert "probability of 8.2% or more" in page.locator(".hint").inner_text()


def test_hits_are_what_the_user_took_later(page, users):
    user, held_out = users[2], {str(item) for item in users[2]["held_out"]["item_id"]}
    page.select_option("#user", "2")
    settle(page)

    def hits() -> list[str]:
        return page.locator(".is-hit").evaluate_all("rows => rows.map(r => r.dataset.item)")

    assert len(held_out) > 2 and set(hits()) == held_out & set(listed(page)) and page.locator(".mark.hit").count()
    words = page.locator(".hits").inner_text()
    number = f"{len(hits())} of the {len(held_out)} items that the user took in the 14 days after"
    share = 100 * len(hits()) / len(held_out)
    assert number in words, words
    assert f"recall {share:.{0 if share >= 10 else 1}f}%" in words, words
    page.click("#later-events summary")
    told = dict(
        page.locator("#later-events li").evaluate_all(
            "rows => rows.map(r => [r.dataset.event, r.lastChild.textContent])"
        )
    )
    ranks = {item: f"✓ no. {rank}" for rank, item in enumerate(listed(page), 1)}
    assert told == {item: ranks.get(item, "not in the list") for item in held_out}
    page.check("#onlyNew-A")
    settle(page)
    fresh = held_out - {str(item) for item in user["item_id"]}
    assert set(hits()) == fresh & set(listed(page))
    assert f" of the {len(fresh)} new item" in page.locator(".hits").inner_text() or not fresh
    page.select_option("#user", "nobody")  # of whom nothing is held out
    settle(page)
    assert page.locator(".hits").count() == 0 and page.locator("#later-events").count() == 0


@pytest.mark.parametrize("only_new", [False, True])
def test_percentages_of_the_list_are_those_of_the_interests(page, only_new):
    page.set_checked("#onlyNew-A", only_new)
    settle(page)
    panel = dict(
        page.locator("li.interest").evaluate_all(
            "rows => rows.map(r => [r.dataset.category, r.querySelector('.score span').textContent])"
        )
    )
    shares = page.locator(".list li").evaluate_all(
        "rows => rows.map(r => [r.querySelector('.tag').textContent, r.querySelector('.why').textContent])"
    )
    assert len(shares) > 5
    for tag, why in shares:
        assert why.startswith(f"{panel[tag.split(',')[0]]} for the interest × ")


def test_items_of_the_history_that_the_model_corrects_are_no_percentages_above_one(page):
    def correct(route):
        answer = route.fetch()
        outputs = answer.json()["outputs"]
        if "interest_rank" in outputs and "serving_default" in (route.request.post_data or ""):
            outputs["score"] = [[score + 4.0 for score in row] for row in outputs["score"]]
        route.fulfill(response=answer, json={"outputs": outputs})

    page.route("**/*:predict", correct)
    page.fill("#k-A", "7")
    settle(page)
    whys = page.locator(".list li .why").all_inner_texts()
    own = [why for why in whys if "in this history, the last" in why]
    assert len(own) > 1 and all("as an item of this history" in why for why in own)
    first = re.fullmatch(
        r"(.*)% for the interest × (.*)% within it = (.*)%, × (.*) as an item .*", own[0].split(" · ")[0]
    )
    interest, within, product, factor = map(float, first.groups())
    assert product == pytest.approx(interest * within / 100, rel=0.1) and factor == pytest.approx(np.exp(4), rel=0.01)


def test_the_address_keeps_the_state(page, url, users):
    page.select_option("#user", "1")
    page.fill("#k-A", "9")
    page.check("#onlyNew-A")
    page.fill("#category-A", "c2")
    page.click("text=Never search >> nth=0")
    page.fill("#as-of", "2021-01-05")
    settle(page)
    page.click("#compare")
    page.select_option("#search-B", "every")
    page.fill("#k-B", "12")
    settle(page)
    lists = [listed(page, side) for side in "AB"]
    assert list(map(len, lists)) == [9, 12]
    page.reload()
    settle(page)
    assert [listed(page, side) for side in "AB"] == lists
    assert page.input_value("#user") == "1" and page.input_value("#as-of") == "2021-01-05"
    assert page.locator(".bar[data-side=B] .chip").inner_text().startswith("never search: c2")
    page.goto(f"{url}/explorer/?user=nemo&k=0&merge=best&as_of=soon&num_interests=all&model=longretriever")
    settle(page)
    assert len(drawn(page)) == 7
    assert "left out: k=0, merge=best." in page.locator(".bar .fault").inner_text()
    notes = " ".join(page.locator("#picker .note").all_inner_texts())
    assert "“nemo”, whom" in notes and "“soon”, which is no date" in notes


def test_long_lists_are_short_pages(page, users):
    page.set_viewport_size(PHONE)
    page.select_option("#search-A", "every")
    page.fill("#k-A", "80")
    settle(page)
    page.fill("#k-A", "90")
    settle(page)
    assert page.locator("#changes").inner_text() == "90 items"  # longer, and else as it was
    first = listed(page)
    assert len(first) == 25
    page.click("[data-key=list-next]")
    page.wait_for_selector("[data-rank='26']")
    assert not set(listed(page)) & set(first)
    assert page.evaluate("document.activeElement.dataset.key") == "list-next"
    page.select_option("[data-key=list-page]", "3")
    page.wait_for_selector("[data-rank='90']")
    assert page.locator(".list .is-new").count() == 0
    assert len(listed(page)) == 15 and page.locator("[data-key=list-next]").get_attribute("aria-disabled") == "true"
    page.click("#past-events summary")
    assert page.locator("#past-events li").count() == 20
    assert page.evaluate("document.documentElement.scrollHeight") < 9000
    latest = str(users[0]["item_id"][-1])
    assert page.locator("#past-events li >> nth=0").get_attribute("data-event") == latest
    page.locator("[data-key=past-filter]").press_sequentially(latest)
    found = page.locator("#past-events li").evaluate_all("rows => rows.map(r => r.dataset.event)")
    assert found and set(found) == {latest} and page.input_value("[data-key=past-filter]") == latest


def test_names_that_items_share_come_with_their_ids(page, url):
    reply = {
        "names": {str(item): "green tea" for item in range(100, 197)},
        "shared": [str(item) for item in range(101, 197, 2)],
    }
    page.route("**/names", lambda route: route.fulfill(json=reply))
    page.goto(f"{url}/explorer/?num_interests=all&k=97")
    settle(page)
    rows = page.locator(".list li").evaluate_all(
        "rows => rows.map(r => [r.dataset.item, r.querySelector('.name').textContent])"
    )
    for item, name in rows:
        assert name.startswith("green tea")
        assert (item in name) == (item in reply["shared"])


def test_two_settings_on_a_phone_lie_side_by_side(page):
    page.set_viewport_size(PHONE)
    page.click("#compare")
    settle(page)
    tops = page.locator(".pane").evaluate_all("panes => panes.map(p => p.getBoundingClientRect().top)")
    assert len(tops) == 2 and tops[0] == tops[1]
    assert page.locator(".bar:visible").count() == 1
    page.click(".sides [data-side=A]")
    assert page.locator(".bar:visible").get_attribute("data-side") == "A"
    assert page.locator(".sides [data-side=A]").get_attribute("aria-pressed") == "true"


def test_a_first_visitor_is_shown_around(page):
    page.click("text=Show me around")
    titles = []
    while page.locator("#tour").is_visible():
        titles.append(page.locator("#tour-title").inner_text())
        assert page.locator(".toured").count() == 1
        page.keyboard.press("Enter")  # on Next, then on Done
    assert titles[0] == "One user 1 of 6" and titles[-1] == "Two settings 6 of 6" and len(titles) == 6
    assert page.evaluate("document.activeElement.id") == "tour-button"
    page.reload()
    settle(page)
    assert page.locator(".invitation").count() == 0
    page.click("#tour-button")
    page.keyboard.press("Escape")
    assert not page.locator("#tour").is_visible() and page.locator(".toured").count() == 0


def test_changes_are_marked_and_said(page):
    before = listed(page)
    page.click(f"[data-item='{before[0]}'] button")
    settle(page)
    after = listed(page)
    fresh = [item for item in after if item not in before]
    marked = page.locator(".list .is-new").evaluate_all("rows => rows.map(r => r.dataset.item)")
    assert marked == fresh and len(fresh) == 1
    moved = sum(before.index(item) != rank for rank, item in enumerate(after) if item in before)
    assert page.locator("#changes").inner_text() == f"1 new, 1 gone, {moved} moved, of {len(after)} items."
    assert page.locator(".gone").inner_text() == f"Gone: item {before[0]}"


def test_two_settings_side_by_side(page, url, users):
    page.click("#compare")
    settle(page)
    assert listed(page, "A") == listed(page, "B")
    page.fill("#numInterests-B", "1")
    settle(page)
    expect(page, url, users[0], "A")
    expect(page, url, users[0], "B", num_interests=1)
    a, b = listed(page, "A"), listed(page, "B")
    shared = len(set(a) & set(b))
    assert page.locator("#changes").inner_text() == f"{shared} of {max(len(a), len(b))} items are in both lists."
    assert page.locator(".pane[data-side=B] .is-new").count() == len(b) - shared
    page.click("#compare")
    settle(page)
    assert page.locator(".pane").count() == 1 and listed(page) == a


def test_the_history_and_its_interests(page, users):
    user = users[0]
    sizes = {f"c{c}": sum((item - 100) % 7 == c for item in user["item_id"]) for c in range(7)}
    for category, size in sizes.items():
        row = page.locator(f".interest[data-category={category}]")
        assert (f"{size} event" if size else "never seen") in row.locator(".who").inner_text()
        times = {
            t for item, t in zip(user["item_id"], user["timestamp"], strict=True) if f"c{(item - 100) % 7}" == category
        }
        columns = {round((t - user["timestamp"][0]) / (AS_OF - user["timestamp"][0]) * 1000) for t in times}
        assert (row.locator("svg.history path").get_attribute("d") or "").count("M") == len(columns)
    top = max(sizes, key=sizes.get)
    page.click(f"[data-key='score-{top}']")
    days = [
        max((AS_OF - t) / DAY_S, 1)
        for i, t in zip(user["item_id"], user["timestamp"], strict=True)
        if f"c{(i - 100) % 7}" == top
    ]
    by_hand = sum(1 / day for day in days)
    assert f"Eq. 3 by hand: {by_hand:#.3g} = " in page.locator(f".interest[data-category={top}] .detail").inner_text()


def test_candidates_are_those_of_the_category(page, url, users):
    history = {"history_item_id": users[0]["item_id"], "history_timestamp": users[0]["timestamp"]}
    cards = page.locator(".card").all()
    assert len(cards) == 5
    with Client(url) as client:
        request = Request(**history, request_timestamp=AS_OF, profile=users[0]["profile"], k=5, seed=1)
        _, columns = client.encode([request])
        for card in cards:
            category = np.array([card.locator("h3").inner_text()])
            answer = client.predict("retrieve_in_category", columns | {"category": category})
            shown = card.locator(".name").evaluate_all("names => names.map(n => n.textContent)")
            assert shown == [f"item {item}" for item in answer["item_id"][0]]


PASTES = [
    ("", "Nothing was pasted."),
    ("item_id,timestamp\n", "No event was found."),
    ("101", "Line 1, “101”, must hold an item id and a time"),
    (
        "101, 2020-09-13\ntea, 2020-09-14",
        "Line 2, “tea, 2020-09-14”, has the item id “tea”; this model's ids are whole numbers.",
    ),
    ("101, 1600000000000000", "has the time “1600000000000000”; write seconds or a date"),
    ("101, yesterday", "has the time “yesterday”; write seconds or a date"),
    ("101, 2020-09-13, heavy", "has the weight “heavy”; write a number"),
    ("99999999999999999999, 2020-09-13", "has the item id “99999999999999999999”"),
    ("[1, 2", "This begins like JSON and is not"),
    ('{"item_id": [1, 2], "timestamp": [3]}', "two lists of one length"),
    ('[{"item_id": 101}]', "Event 1 must hold an item id and a time"),
]


def test_a_malformed_paste_gives_a_sentence(page):
    before = listed(page)
    page.select_option("#user", "paste")
    for text, words in PASTES:
        page.fill("#paste", text)
        page.click("text=Use this history")
        assert words in page.locator("#paste-fault").inner_text(), text
        assert page.locator("#paste").get_attribute("aria-invalid") == "true"
    assert listed(page) == before


@pytest.mark.parametrize("form", ["lines", "dates", "events", "columns"])
def test_a_pasted_history_is_asked_about(page, url, form):
    times = [START + day * DAY_S for day in (3, 1, 2)]
    items = [101, 102, 108]
    events = list(zip(items, times, strict=True))
    text = {
        "lines": "item_id,timestamp\n" + "\n".join(f"{item},{time}" for item, time in events),
        "dates": "101; 2020-09-16 12:26:40\n\n102; 2020-09-14T12:26:40Z\n108\t1600172800000",
        "events": json.dumps([{"item_id": item, "timestamp": time} for item, time in events]),
        "columns": json.dumps({"inputs": {"history_item_id": [items], "history_timestamp": [times]}}),
    }[form]
    page.select_option("#user", "paste")
    page.fill("#paste", text)
    page.fill("[name=taste]", "b1")
    page.click("text=Use this history")
    settle(page)
    user = {"item_id": items, "timestamp": times, "request_timestamp": max(times) + 1, "profile": {"taste": "b1"}}
    expect(page, url, user)
    assert page.locator("#about").inner_text().startswith("3 events with 3 items in 2 categories over 3 days")
    page.fill("#as-of", "2020-09-16")
    settle(page)
    expect(page, url, user | {"request_timestamp": 1_600_214_400})
    assert page.locator("#about").inner_text().startswith("2 events with 2 items")  # the third is of that day


def test_unknown_ids_and_no_history_are_said(page, url):
    page.select_option("#user", "paste")
    page.fill("#paste", "101, 2020-09-16\n9007199254740993, 2020-09-17")
    page.click("text=Use this history")
    settle(page)
    assert "does not know 1 item and ignores them: 9007199254740993." in page.locator("#about").inner_text()
    page.fill("#paste", "7, 2020-09-16")
    page.click("text=Use this history")
    settle(page)
    assert "The model knows none of these items" in page.locator("#about").inner_text()
    page.select_option("#user", "nobody")
    settle(page)
    assert "no history. The list rests on everyone's behaviour alone." in page.locator("#about").inner_text()
    nobody = {"item_id": [], "timestamp": [], "request_timestamp": AS_OF, "profile": {}}
    expect(page, url, nobody)
    assert "popular with everyone" in page.locator(".interest.on .badges >> nth=0").inner_text()


def test_a_number_out_of_range_and_an_unknown_category_give_a_sentence(page):
    before = listed(page)
    page.fill("#numInterests-A", "-1")
    assert page.locator(".bar .fault").inner_text() == "“How many” takes a whole number from 1 to 100,000."
    page.fill("#category-A", "unicorns")
    page.click("text=Never search >> nth=0")
    assert page.locator(".bar .fault").inner_text() == "The model has no category “unicorns”."
    settle(page)
    assert listed(page) == before


def test_the_page_is_busy_from_its_first_byte_until_its_first_list(page, url):
    page.route("**/users.json", lambda route: (page.wait_for_timeout(600), route.continue_()))
    page.goto(f"{url}/explorer/")
    assert listed(page) == []
    settle(page)
    assert listed(page)


def test_a_list_that_nothing_is_left_for_says_so(page):
    for category in range(7):
        page.fill("#category-A", f"c{category}")
        page.click("text=Never search >> nth=0")
    settle(page)
    assert listed(page) == []
    assert "Nothing is left to list" in page.locator("#lists").inner_text()


def test_an_endpoint_that_is_down_gives_a_sentence_and_a_second_try(page, url, users):
    page.route("**/v1/**", lambda route: route.abort())
    page.fill("#seed-A", "5")
    page.wait_for_selector(".trouble")
    assert "The endpoint does not answer. Is the server still running?" in page.locator("#alert").inner_text()
    page.unroute("**/v1/**")
    page.click("text=Try again")
    settle(page)
    assert page.locator(".trouble").count() == 0
    expect(page, url, users[0], seed=5)


def test_a_model_that_is_not_there_gives_a_sentence(page, url):
    page.goto(f"{url}/explorer/?model=nobody")
    page.wait_for_selector(".trouble")
    assert "This endpoint has no model “nobody” ready to answer." in page.locator("#alert").inner_text()


def test_words_of_a_history_are_never_markup(page):
    page.select_option("#user", "paste")
    page.fill("#paste", "<img src=x onerror=alert(1)>, 2020-09-16")
    page.click("text=Use this history")
    assert "“<img src=x onerror=alert(1)>”" in page.locator("#paste-fault").inner_text()
    assert page.locator("img").count() == 0


def test_by_keyboard_alone(page, url, users):
    page.focus("#seed-A")
    page.keyboard.press("ArrowUp")
    settle(page)
    expect(page, url, users[0], seed=2)
    rule = page.locator(".interest select >> nth=0")
    category = page.locator("li.interest >> nth=0").get_attribute("data-category")
    rule.focus()
    page.keyboard.press("n")  # never
    settle(page)
    expect(page, url, users[0], seed=2, forbidden_category=[category])
    assert page.evaluate("document.activeElement.dataset.key") == f"rule-{category}"  # drawn anew, and still focused
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.locator(f".interest[data-category={category}] .detail").is_visible()


def test_items_find_their_categories_when_subsequences_are_short(page):
    """`user_embeddings` shows at most L items of a category: the page asks again for the rest, here with L = 2."""
    category_of = page.evaluate(
        """async () => {
          const { Model } = await import("/explorer/model.js");
          const endpoint = {
            inputs: () => ({}),
            async predict(signature, columns) {
              const items = columns.history_item_id.row;
              const known = items.filter((id) => id !== "7");
              const subsequences = columns.category.map((c) => known.filter((id) => "c" + (id % 3) === c).slice(0, 2));
              return {
                subsequence_item_id: subsequences.map((ids) => [...ids.map(Number), 0, 0].slice(0, 2)),
                subsequence_length: subsequences.map((ids) => ids.length),
              };
            },
          };
          const events = [...Array(17).keys()].map((id) => ({ id: String(id), seconds: id + 1, weight: 1 }));
          const interests = ["c0", "c1", "c2", "c9"].map((category) => ({ category, events: 1 }));
          return [...await new Model(endpoint).categories({ events, asOf: 99, profile: {} }, interests)];
        }"""
    )
    assert dict(category_of) == {str(item): f"c{item % 3}" for item in range(17) if item != 7}


def test_eq_3_draws_from_seen_categories_and_forces_any(page):
    """An export of interest=paper returns unseen categories as explored ones, with score 0."""
    rows = page.evaluate(
        """async () => {
          const { Model } = await import("/explorer/model.js");
          const { readDraw } = await import("/explorer/interests.js");
          const row = (value) => [value];
          const endpoint = {
            inputs: () => ({ exploration: {} }),
            predict: async (signature, columns) => ({
              interest_category: row(["often", "once", "", "never"]),
              interest_score: row([2.5, 0.1, 0, 0]),
              interest_rank_drawn: row([1, 2, 0, 3]),
              interest_origin: row(["drawn", "drawn", "", columns.exploration[0] ? "explored" : ""]),
              interest_num_events: row([4, 1, 0, 0]),
              interest_last_timestamp: row([9, 8, 0, 0]),
            }),
          };
          const all = await new Model(endpoint).interests({ events: [], asOf: 99, profile: {} });
          const settings = { search: "draw", topInterests: 20, numInterests: 5, forbidden: ["once"] };
          return [all.map(({ category }) => category), [...readDraw(all, settings, []).top]];
        }"""
    )
    assert rows == [["often", "once", "never"], ["often"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_no_serious_fault(page, scheme, size):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(size)
    page.fill("#category-A", "c1")
    page.click("text=Always search >> nth=0")
    settle(page)
    page.click(".score >> nth=0")
    page.click("#past-events summary")
    page.click("#later-events summary")
    page.click("#tour-button")
    assert_accessible(axe, page)
    page.keyboard.press("Escape")
    page.select_option("#user", "paste")
    page.click("text=Use this history")
    assert_accessible(axe, page)
    page.select_option("#user", "0")
    page.click("#compare")
    page.fill("#numInterests-B", "1")
    page.fill("#category-B", "c2")
    page.click(".bar[data-side=B] >> text=Never search")
    settle(page)
    assert_accessible(axe, page)


def assert_accessible(axe, page) -> None:
    response = axe.Axe().run(page).response
    assert len(response["passes"]) > 20  # it did look
    serious = [fault for fault in response["violations"] if fault["impact"] in ("serious", "critical")]
    assert not serious, json.dumps([(f["id"], [n["html"][:120] for n in f["nodes"]]) for f in serious], indent=1)


@pytest.mark.parametrize("width", [320, 390, 820, 1360])
def test_nothing_overflows_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.click("#compare")
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_theme_follows_the_system_or_the_button(page):
    def background() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.emulate_media(color_scheme="light")
    light = background()
    page.emulate_media(color_scheme="dark")
    dark = background()
    assert light != dark
    page.click("#theme")
    assert page.locator("#theme").inner_text() == "Theme: light" and background() == light
    page.reload()
    settle(page)
    assert background() == light
    page.click("#theme")
    page.emulate_media(color_scheme="light")
    assert background() == dark
