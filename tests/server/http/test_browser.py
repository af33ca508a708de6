"""The page in a real Chromium: what people see, by mouse, by keyboard and by a screen reader's names."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.server.http.asking import base64_of, picture, port_of
from tests.server.rig import Rig

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright", exc_type=ImportError
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = ROOT / ".cache" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]

Start = Callable[..., Rig]
Open = Callable[..., Any]
LABEL = "airplane"  # the network answers that every class is as likely


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for all tests of this file."""
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Open a page of a server; that fails the test where it has an error, or asks another server for anything."""
    contexts, wrong = list[Any](), list[str]()

    def visit_page(port: int, path: str = "/", *, refuses: bool = False, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        own = (f"http://127.0.0.1:{port}/", "blob:")
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda sent: None if sent.url.startswith(own) else wrong.append(sent.url))
        if not refuses:  # else Chromium tells of the refusal itself
            page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto(f"http://127.0.0.1:{port}{path}")
        return page

    yield visit_page
    for each in contexts:
        each.close()
    assert wrong == []


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A file with a photo."""
    path = tmp_path / "photo.png"
    path.write_bytes(picture())
    return path


def expect(locator: Any) -> Any:
    """Waits for what is expected."""
    return playwright.expect(locator)


def test_photos_that_are_chosen_get_labels_bars_and_times(port: int, visit: Open, photo: Path) -> None:
    page = visit(port)
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    page.get_by_label("Labels", exact=True).fill("3")
    page.set_input_files("#files", [photo, photo])
    cards = page.get_by_role("list", name="Results, the newest first").locator("> li")
    expect(cards).to_have_count(2)
    labels = cards.first.get_by_role("list", name="Labels, the most probable first").get_by_role("listitem")
    expect(labels).to_have_count(3)
    expect(labels.first).to_contain_text(LABEL)
    expect(labels.first).to_contain_text("10.0%")
    whole, bar = labels.first.bounding_box(), labels.first.locator(".bar").bounding_box()
    assert bar["width"] == pytest.approx(whole["width"] / 10, abs=1)
    expect(page.locator("#news")).to_have_text(f"photo.png: {LABEL}, 10.0%")
    cards.first.locator("summary").click()
    expect(cards.first.get_by_text("Network")).to_be_visible()
    assert cards.first.locator("img").evaluate("image => image.naturalWidth") == 48


def test_where_a_label_was_seen_is_drawn_over_the_photo(port: int, visit: Open, photo: Path) -> None:
    page = visit(port)
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    page.get_by_label("Show why").check()
    page.set_input_files("#files", photo)
    drawn = page.get_by_role("img", name=f"Where in the photo {LABEL} was seen")
    expect(drawn).to_be_visible()
    expect(page.get_by_text(f"Bright: where {LABEL} was seen.")).to_be_visible()
    # The network scores all alike: the whole map is low, and the photo is as it was in its centre.
    assert drawn.evaluate("canvas => canvas.getContext('2d').getImageData(320, 320, 1, 1).data[3]") == 255


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_photo_may_be_dropped_or_pasted(port: int, visit: Open, kind: str) -> None:
    page = visit(port)
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    page.evaluate(
        """([kind, content]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const held = new DataTransfer();
            held.items.add(new File([bytes], "held.png", { type: "image/png" }));
            const event = kind === "drop"
                ? new DragEvent("drop", { dataTransfer: held, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: held, cancelable: true });
            document.dispatchEvent(event);
        }""",
        [kind, base64_of(picture())],
    )
    expect(page.get_by_role("heading", name="held.png")).to_be_visible()
    expect(page.locator(".labels li").first).to_contain_text(LABEL)


def test_a_keyboard_is_enough(port: int, visit: Open, photo: Path) -> None:
    page = visit(port)
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the photos")).to_be_focused()
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "choose":
            break
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Enter")
    chosen.value.set_files(photo)
    expect(page.locator(".labels li").first).to_contain_text(LABEL)


def test_what_is_no_photo_is_told_beside_its_name(port: int, visit: Open, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"none")
    page = visit(port, refuses=True)
    page.set_input_files("#files", broken)
    card = page.get_by_role("list", name="Results, the newest first").locator("> li").first
    expect(card.locator(".problem")).to_contain_text("not an image")
    expect(card.get_by_role("heading")).to_have_text("broken.png")
    text = tmp_path / "notes.txt"
    text.write_text("notes", "utf-8")
    page.set_input_files("#files", text)
    expect(page.get_by_role("alert")).to_contain_text("left out")


def test_names_of_files_are_text_and_never_html(port: int, visit: Open, tmp_path: Path) -> None:
    named = tmp_path / "<img src=x onerror=alert(1)>.png"
    named.write_bytes(picture())
    page = visit(port)
    page.set_input_files("#files", named)
    expect(page.get_by_role("heading", name=named.name)).to_be_visible()


def test_a_token_is_asked_for_and_used(start_rig: Start, visit: Open, photo: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[[token]]\nidentity = "a"\nsha256 = "{hashlib.sha256(b"secret").hexdigest()}"\n', "utf-8")
    page = visit(port_of(start_rig(f"--tokens={tokens}")), refuses=True)
    dialog = page.get_by_role("dialog", name="A token is needed")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Token", exact=True).fill("secret")
    dialog.get_by_role("button", name="Use it").click()
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    page.set_input_files("#files", photo)
    expect(page.locator(".labels li").first).to_contain_text(LABEL)
    assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0


def test_the_model_is_described(http_port: int, visit: Open) -> None:
    page = visit(http_port)
    page.get_by_text("The model").click()
    expect(page.get_by_role("definition").filter(has_text="se_resnet20_cifar10")).to_be_visible()
    expect(page.get_by_role("rowheader", name="stem")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_until_it_is_chosen(port: int, visit: Open, scheme: str) -> None:
    page = visit(port, color_scheme=scheme)
    ground = "getComputedStyle(document.body).backgroundColor"
    before, button = page.evaluate(ground), page.get_by_role("button", name="Dark")
    expect(button).to_have_attribute("aria-pressed", str(scheme == "dark").lower())
    button.click()
    expect(button).to_have_attribute("aria-pressed", str(scheme == "light").lower())
    assert page.evaluate(ground) != before


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_phone_needs_no_scrolling_to_the_side(port: int, visit: Open, photo: Path, path: str) -> None:
    page = visit(port, path, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    if path == "/":
        page.set_input_files("#files", photo)
        expect(page.locator(".labels li").first).to_contain_text(LABEL)
        page.get_by_text("The model").click()
    else:
        expect(page.get_by_text("/classify", exact=True)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_page_of_the_api_has_every_path(port: int, visit: Open) -> None:
    page = visit(port, "/docs")
    for path in ("/classify", "/v1/models/{model}:predict", "/v2/models/{model}/infer"):
        expect(page.get_by_role("heading", name=f"POST {path}")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.skipif(not AXE.exists(), reason="axe-core is missing: npm install --prefix .cache/axe axe-core")
def test_axe_finds_nothing_that_shuts_anybody_out(port: int, visit: Open, photo: Path, scheme: str) -> None:
    page = visit(port, color_scheme=scheme)
    page.set_input_files("#files", photo)
    page.locator(".times summary").click()
    page.get_by_text("The model").click()
    for path in ("/", "/docs"):
        if path == "/docs":
            page.goto(f"http://127.0.0.1:{port}/docs")
            expect(page.get_by_text("/classify", exact=True)).to_be_visible()
        page.evaluate(AXE.read_text("utf-8"))
        found = page.evaluate("axe.run()")["violations"]
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
