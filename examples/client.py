"""A client of `cospec serve`, with OpenAI's own library.

cospec serve --ensemble demo:we --proposer demo:drafter     # in one terminal
python examples/client.py                                   # in another
"""

import argparse

import openai

PROMPT = "Question: Sam has 3 bags of 12 apples. How many apples are there?\nAnswer:"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="where the server is")
    parser.add_argument("--api-key", default="none", help="a key, if the server asks for one")
    arguments = parser.parse_args()
    with openai.OpenAI(base_url=arguments.url, api_key=arguments.api_key) as client:
        model = client.models.list().data[0].id
        show_stream(client, model)
        show_speed(client, model)
        show_choice(client, model)


def show_stream(client: openai.OpenAI, model: str) -> None:
    """Stream a text."""
    for chunk in client.completions.create(model=model, prompt=PROMPT, max_tokens=48, seed=1, stream=True):
        print(chunk.choices[0].text, end="", flush=True)
    print()


def show_speed(client: openai.OpenAI, model: str) -> None:
    """The same text under two schedules, which coupled verification keeps equal, with the cost of each."""
    for schedule in ("plain", "alternate"):
        plan = {"schedule": schedule, "verification": "coupled"}
        answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=48, seed=1, extra_body=plan)
        metrics = (answer.model_extra or {})["metrics"]
        calls = ", ".join(f"{name} {member['calls']} calls" for name, member in metrics["members"].items())
        print(f"{schedule}: {metrics['tokens_per_second']:.0f} tokens/s, {calls}")


def show_choice(client: openai.OpenAI, model: str) -> None:
    """A chat whose answer is one of two words, with its log-probability under the combination."""
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Is 12 more than 7?"}],
        logprobs=True,
        temperature=0,
        extra_body={"guided_choice": ["yes", "no"]},
    )
    choice = answer.choices[0]
    print(f"{choice.message.content} ({sum(entry.logprob for entry in choice.logprobs.content):.2f})")


if __name__ == "__main__":
    main()
