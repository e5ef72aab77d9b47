"""Pages as tests look at them."""

from html.parser import HTMLParser

# Elements that HTML closes by themselves.
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """The parts of a page that the tests look at; fails on elements that do not nest."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.elements, self.cells, self.text = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1].append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]
