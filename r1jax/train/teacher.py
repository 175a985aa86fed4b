"""A teacher behind a URL: its answers, as those of a model in hand would look."""

from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice, product

from r1jax.remote import Answer, AskError, Remote, Sampling
from r1jax.text.reasoning import CLOSE, OPEN
from r1jax.train.rewards import Task
from r1jax.train.rollout import Completion, Ended, seed_of

_SEEDS = 2**31  # what servers take


def each_ended(
    remote: Remote,
    tasks: Mapping[int, Task],
    *,
    sampling: Sampling,
    group: int,
    seed: int,
) -> Ended:
    """Asks a server for several answers to each question, many at once.

    Args:
      remote: The server.
      tasks: What is asked, by numbers of the caller's.
      sampling: How answers are drawn.
      group: Answers to each question, each with a seed of its own.
      seed: With a question's number it decides the seeds.

    Yields:
      Each answer when it came, behind its question's number and its place in the group.

    Raises:
      AskError: An answer did not come. Those under way by then are yielded before.
    """
    waiting = product(tasks, range(group))
    running: dict[Future[Answer], tuple[int, int]] = {}
    failure: AskError | None = None
    pool = ThreadPoolExecutor(remote.concurrency)
    try:
        while True:
            free = 0 if failure else remote.concurrency - len(running)
            for i, g in islice(waiting, free):
                own = seed_of(seed, i, g) % _SEEDS
                asked = pool.submit(remote.ask, tasks[i].question, sampling, own)
                running[asked] = (i, g)
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                i, g = running.pop(future)
                try:
                    said = future.result()
                except AskError as error:
                    failure = error
                else:
                    yield i, g, as_completion(said)
    finally:  # whoever leaves does not wait for the threads
        pool.shutdown(wait=False, cancel_futures=True)
    if failure:
        fix = f"{failure.fix}; then --resume goes on with the other questions"
        raise AskError(failure.what, failure.why, fix)


def as_completion(said: Answer) -> Completion:
    """Returns an answer as if a prompt had opened its thoughts.

    Servers give thoughts apart, or in the content between tags, of which the opening
    one may have stood in the prompt. Token ids are not known. Halves of surrogate
    pairs, which no file can hold, become question marks.
    """
    prompt, text = "", said.content
    if said.reasoning:
        prompt = OPEN
        text = f"{said.reasoning.strip()}\n{CLOSE}\n\n{said.content.strip()}"
    elif CLOSE in text and OPEN not in text:
        prompt = OPEN
    plain = text.encode(errors="replace").decode()
    return Completion(prompt, (), (), (), plain, said.finish)
