"""Opens a page in a real browser, runs JavaScript in it, and prints what that gives and what the console said.

``python browser.py PAGE CODE`` needs PySide6 with Qt WebEngine, or playwright with Chromium.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def with_playwright(page: Path, code: str) -> tuple[object, list[str]]:
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch()
        opened = browser.new_page()
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.goto(page.as_uri())
        return opened.evaluate(code), said


def with_qt(page: Path, code: str) -> tuple[object, list[str]]:
    from PySide6.QtCore import QUrl
    from PySide6.QtWebEngineCore import QWebEnginePage
    from PySide6.QtWebEngineWidgets import QWebEngineView
    from PySide6.QtWidgets import QApplication

    said: list[str] = []
    answers: list[object] = []

    class Listening(QWebEnginePage):
        def javaScriptConsoleMessage(self, level: object, message: str, line: int, source: str) -> None:  # noqa: N802
            said.append(message)

    app = QApplication([sys.argv[0], "--no-sandbox"])
    view = QWebEngineView()
    opened = Listening(view)
    view.setPage(opened)
    view.resize(1200, 2000)

    def answer(value: object) -> None:
        answers.append(value)
        app.quit()

    opened.loadFinished.connect(lambda ok: opened.runJavaScript(code, 0, answer))
    opened.load(QUrl.fromLocalFile(str(page)))
    view.show()
    app.exec()
    return answers[0], said


def main() -> None:
    page, code = Path(sys.argv[1]).resolve(), sys.argv[2]
    try:
        import PySide6.QtWebEngineWidgets  # noqa: F401

        answer, said = with_qt(page, code)
    except ImportError:
        answer, said = with_playwright(page, code)
    print(json.dumps({"answer": answer, "console": said}))


if __name__ == "__main__":
    main()
