"""Visits to the page: it is open in Chromium, served by a started server."""

import contextlib
import json

PROMPT = "Question: Sam has 3 bags of 12 apples. How many apples are there?\nAnswer:"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


class Visit:
    """The page, open in a browser, and what went wrong there."""

    def __init__(self, page, url):
        self.page, self.url = page, url
        self.errors: list[str] = []
        self.requested: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requested.append(request.url))
        page.goto(url)
        # What a form offers comes from the server, which may ask for a key first; before that, what is filled in may be
        # filled in anew.
        page.wait_for_selector("#verification option, #key-form:not([hidden])", state="attached")

    def fill(self, **fields):
        self.page.eval_on_selector("#sampling", "details => { details.open = true; }")
        for name, value in fields.items():
            self.page.fill(f"#{name.replace('_', '-')}", str(value))

    def ask_for(self, **more):
        """Let the page's requests ask for fields that its form does not have."""

        def widened(route):
            route.continue_(post_data=json.dumps({**route.request.post_data_json, **more}))

        for endpoint in ("completions", "chat/completions"):
            self.page.route(f"**/v1/{endpoint}", widened)

    def run(self, button="#generate", schedule="alternate", **fields):
        self.page.select_option("#schedule", schedule)
        self.fill(**{"prompt": PROMPT, "max_tokens": 24, "seed": 3, **fields})
        self.page.click(button)

    def say(self, message, button=None, schedule="alternate", **fields):
        """Send a message in the chat, by a button or else the Enter key."""
        self.page.select_option("#schedule", schedule)
        self.fill(**{"max_tokens": 24, "seed": 3, **fields})
        self.page.fill("#message", message)
        if button:
            self.page.click(button)
        else:
            self.page.press("#message", "Enter")

    def turns(self):
        """The conversation that the page shows: role and text of each turn."""
        return self.page.eval_on_selector_all(
            ".turn",
            "turns => turns.map((turn) => [turn.classList[1], turn.querySelector('.message, .answer').textContent])",
        )

    def becomes(self, phase):
        """Wait for a run's end, or for a long one's "streaming".

        A run's click returns in that phase or behind it: an earlier run's end is never taken for this one's, and a
        short run has no "streaming" that could be waited for.
        """
        self.page.wait_for_selector(f"body[data-phase={phase}]")

    def finish(self, *, told=()):
        """Nothing went wrong but what the browser tells of the statuses `told`; nothing was asked of anybody else."""
        told = [error for error in self.errors if not any(f"status of {status}" in error for status in told)]
        assert told == []
        assert [url for url in self.requested if not url.startswith((self.url, "data:"))] == []


@contextlib.contextmanager
def visiting(browser, served, **options):
    with contextlib.closing(browser.new_context(**options)) as context:
        context.set_default_timeout(20_000)
        yield Visit(context.new_page(), f"{served.url}/")


def streamed(http, **asked):
    """The chunks that the API streams for a request of the page: a chat's where messages are given."""
    body = {"max_tokens": 24, "seed": 3, "schedule": "alternate", "trace": True, "stream": True}
    subject, endpoint = ({}, "chat/completions") if "messages" in asked else ({"prompt": PROMPT}, "completions")
    body = {**body, **subject, "verification": "block", **asked}
    lines = http.post(f"/v1/{endpoint}", json=body).text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def traced(http, **asked):
    """The text and the settle events that the API streams for a request of the page."""
    chunks = streamed(http, **asked)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    text = "".join(choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices)
    return text, [event for chunk in chunks for event in chunk.get("trace", ()) if event["event"] == "settled"]


def text_of(page, selector="#output"):
    return page.eval_on_selector(selector, "box => box.textContent")
