"""Ways to ask: for each kind of question and language some to train on, some held out.

In a template {a} and {b} are the operands, {e} the whole expression, {n} the numbers of
a countdown and {t} its target. Stories are in `r1jax.problems.stories`.
"""

from dataclasses import dataclass
from typing import Literal

from r1jax.problems.problem import Language

Choice = Literal["train", "held-out", "all"]


@dataclass(frozen=True)
class Phrasings:
    """The templates of one kind of question in one language."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def of(self, choice: Choice) -> tuple[str, ...]:
        """Returns the templates of one side, or all."""
        sides = {"train": self.train, "held-out": self.held_out}
        return sides.get(choice, self.train + self.held_out)

    def __add__(self, other: "Phrasings") -> "Phrasings":
        return Phrasings(self.train + other.train, self.held_out + other.held_out)


def ways(text: str) -> tuple[str, ...]:
    """Reads what bars part; a line's end is a space."""
    return tuple(part.strip() for part in " ".join(text.split()).split("|"))


_EXPRESSION_EN = Phrasings(
    train=ways("""
    {e} | {e} = | {e}=? | {e} = ? | {e}? | What is {e}? | What's {e}? | whats {e} |
    Calculate {e}. | Calculate {e} | Compute {e}. | How much is {e}? |
    Please calculate {e}. | Can you work out {e}? |
    Could you calculate {e}, please? | Solve {e} | Solve: {e} | Tell me {e}. |
    I need {e}. | What is the result of {e}? | Give me the result of {e}. |
    Evaluate {e}. | Work out {e} step by step. | {e} equals what? |
    Do you know what {e} is? | Quick question: {e}? | What do you get for {e}?
    """),
    held_out=ways("""
    Could you work out {e} for me? | What does {e} equal? |
    Please tell me the result of {e}. | {e} is how much? | Find {e}. |
    I want to know {e}. | Do you know the result of {e}?
    """),
)
_EXPRESSION_DE = Phrasings(
    train=ways("""
    Was ist {e}? | Wie viel ist {e}? | Wieviel ist {e} | Berechne {e}. |
    Berechne bitte {e}. | Bitte berechne {e} | Rechne {e} aus. | Was ergibt {e}? |
    Wie viel ergibt {e}? | Kannst du {e} ausrechnen? |
    Kannst du bitte {e} berechnen? | Was ist das Ergebnis von {e}? |
    Nenne mir das Ergebnis von {e}. | Löse {e}. | Wie lautet das Ergebnis: {e}? |
    Ich brauche {e}. | Rechne bitte Schritt für Schritt: {e} |
    Was kommt bei {e} heraus? | Sag mir, was {e} ist. | Weißt du, was {e} ist?
    """),
    held_out=ways("""
    Könntest du {e} für mich ausrechnen? | Wie lautet das Ergebnis von {e}? |
    Sag mir bitte das Ergebnis von {e}. | Weißt du, wie viel {e} ist? |
    Was kommt heraus bei {e}?
    """),
)

PHRASINGS: dict[str, dict[Language, Phrasings]] = {
    "add": {
        "en": _EXPRESSION_EN
        + Phrasings(
            train=ways("""
    Add {a} and {b}. | Please add {a} and {b}. | Add {b} to {a} |
    What is the sum of {a} and {b}? | Sum of {a} and {b} | {a} plus {b} |
    {a} plus {b}? | What is {a} plus {b}? | whats {a} plus {b} |
    How much is {a} and {b} together? | {a}, {b}: sum? | Add up {a}, {b}. |
    What do {a} and {b} make?
    """),
            held_out=ways("""
    Could you add {a} and {b} for me? | Calculate the sum of {a} and {b}. |
    How much is {a} plus {b}? | Sum up {a} and {b}.
    """),
        ),
        "de": _EXPRESSION_DE
        + Phrasings(
            train=ways("""
    Addiere {a} und {b}. | Was ist {a} plus {b}? |
    Was ist die Summe von {a} und {b}? | Zähle {a} und {b} zusammen. |
    Wie viel sind {a} und {b} zusammen? | Addiere bitte {a} und {b} |
    Summe von {a} und {b}?
    """),
            held_out=ways("""
    Wie viel ist {a} plus {b}? | Berechne die Summe: {a} und {b}.
    """),
        ),
    },
    "subtract": {
        "en": _EXPRESSION_EN
        + Phrasings(
            train=ways("""
    Subtract {b} from {a}. | Please subtract {b} from {a}. |
    Take {b} away from {a}. | {a} minus {b} | {a} minus {b}? |
    What is {a} minus {b}? | whats {a} minus {b} |
    What is the difference {a} minus {b}? | {a} take away {b} |
    What is left of {a} without {b}? | {a} reduced by {b}
    """),
            held_out=ways("""
    Could you subtract {b} from {a} for me? | How much is {a} minus {b}? |
    What is {a} take away {b}?
    """),
        ),
        "de": _EXPRESSION_DE
        + Phrasings(
            train=ways("""
    Subtrahiere {b} von {a}. | Was ist {a} minus {b}? |
    Ziehe {b} von {a} ab. | Ziehe bitte {b} von {a} ab |
    Was bleibt von {a} ohne {b}? | Was ist die Differenz {a} minus {b}?
    """),
            held_out=ways("""
    Wie viel ist {a} minus {b}? | Bitte subtrahiere {b} von {a}.
    """),
        ),
    },
    "multiply": {
        "en": _EXPRESSION_EN
        + Phrasings(
            train=ways("""
    Multiply {a} by {b}. | Please multiply {a} by {b}. | Multiply {a} and {b} |
    {a} times {b} | {a} times {b}? | What is {a} times {b}? | whats {a} times {b} |
    What is the product of {a} and {b}? | Product of {a} and {b} |
    {a} multiplied by {b} | What is {a} multiplied by {b}?
    """),
            held_out=ways("""
    Could you multiply {a} by {b} for me? | How much is {a} times {b}? |
    Calculate the product of {a} and {b}.
    """),
        ),
        "de": _EXPRESSION_DE
        + Phrasings(
            train=ways("""
    Multipliziere {a} mit {b}. | Was ist {a} mal {b}? | {a} mal {b} |
    Nimm {a} mal {b}. | Was ist das Produkt von {a} und {b}? |
    Multipliziere bitte {a} und {b} | Produkt von {a} und {b}?
    """),
            held_out=ways("""
    Wie viel ist {a} mal {b}? | Berechne das Produkt: {a} und {b}.
    """),
        ),
    },
    "two-step": {
        "en": _EXPRESSION_EN,
        "de": _EXPRESSION_DE,
    },
    "larger": {
        "en": Phrasings(
            train=ways("""
    Which is larger, {a} or {b}? | Which number is larger: {a} or {b}? | Which is
    bigger, {a} or {b}? | What is bigger: {a} or {b} | which one is greater, {a} or
    {b} | Find the larger number: {a}, {b} | What is the maximum of {a} and {b}? |
    Compare {a} and {b}: which is larger? | Tell me the bigger number, {a} or {b}. |
    max({a}, {b}) | {a} or {b}: which is more? | Is {a} or {b} larger? | {a} or {b},
    which is bigger? | Which of {a} and {b} is greater? | Out of {a} and {b}, which
    is the largest? | Give me the bigger of {a} and {b}. | Pick the greater number:
    {a}, {b}. | I have {a} and {b}. Which is more? | The bigger one of {a} and {b},
    please. | Which is the higher number, {a} or {b}? | Between {a} and {b}, which
    is larger?
    """),
            held_out=ways("""
    Which number is bigger, {a} or {b}? | Tell me which is larger: {a} or {b}. |
    What is the larger of {a} and {b}? | Say which number is greater: {a} or {b} |
    larger: {a} or {b}?
    """),
        ),
        "de": Phrasings(
            train=ways("""
    Was ist größer, {a} oder {b}? | Welche Zahl ist größer: {a} oder {b}? | Was ist
    mehr: {a} oder {b}? | Nenne die größere Zahl: {a}, {b} | Was ist das Maximum von
    {a} und {b}? | Vergleiche {a} und {b}: was ist größer? | Ist {a} oder {b}
    größer? | {a} oder {b}, was ist größer? | Welche der Zahlen {a} und {b} ist
    größer? | Was ist höher, {a} oder {b}? | Gib mir die größere von {a} und {b}. |
    Ich habe {a} und {b}. Was ist mehr? | Größer: {a} oder {b}? | Welche von beiden
    ist größer: {a}, {b}? | Sage mir die größere Zahl, {a} oder {b}.
    """),
            held_out=ways("""
    Welche ist größer, {a} oder {b}? | Sag mir, was größer ist: {a} oder {b}. |
    Wähle die größere Zahl: {a} oder {b}
    """),
        ),
    },
    "smaller": {
        "en": Phrasings(
            train=ways("""
    Which is smaller, {a} or {b}? | Which number is smaller: {a} or {b}? | What is
    smaller: {a} or {b} | which one is less, {a} or {b} | Find the smaller number:
    {a}, {b} | What is the minimum of {a} and {b}? | Compare {a} and {b}: which is
    smaller? | min({a}, {b}) | Is {a} or {b} smaller? | {a} or {b}, which is
    smaller? | Which of {a} and {b} is less? | Out of {a} and {b}, which is the
    smallest? | Give me the smaller of {a} and {b}. | Pick the lesser number: {a},
    {b}. | I have {a} and {b}. Which is less? | The smaller one of {a} and {b},
    please. | Which is the lower number, {a} or {b}? | Between {a} and {b}, which is
    smaller? | {a} or {b}: which is less?
    """),
            held_out=ways("""
    Tell me which is smaller: {a} or {b}. | What is the smaller of {a} and {b}? |
    Say which number is smaller: {a} or {b} | smaller: {a} or {b}?
    """),
        ),
        "de": Phrasings(
            train=ways("""
    Was ist kleiner, {a} oder {b}? | Welche Zahl ist kleiner: {a} oder {b}? | Was
    ist weniger: {a} oder {b}? | Nenne die kleinere Zahl: {a}, {b} | Was ist das
    Minimum von {a} und {b}? | Ist {a} oder {b} kleiner? | {a} oder {b}, was ist
    kleiner? | Welche der Zahlen {a} und {b} ist kleiner? | Was ist niedriger, {a}
    oder {b}? | Gib mir die kleinere von {a} und {b}. | Ich habe {a} und {b}. Was
    ist weniger? | Kleiner: {a} oder {b}? | Welche von beiden ist kleiner: {a}, {b}?
    | Sage mir die kleinere Zahl, {a} oder {b}.
    """),
            held_out=ways("""
    Welche ist kleiner, {a} oder {b}? | Wähle die kleinere Zahl: {a} oder {b} |
    Vergleiche {a} und {b}: was ist kleiner?
    """),
        ),
    },
    "is-larger": {
        "en": Phrasings(
            train=ways("""
    Is {a} larger than {b}? | Is {a} bigger than {b}? | is {a} greater than {b} | Is
    {a} more than {b}? | {a} > {b}? | Is it true that {a} > {b}? | Is {a} the larger
    one, compared with {b}? | Can you tell me if {a} is larger than {b}? | Tell me
    whether {a} is bigger than {b}. | {a} is greater than {b}. Is that right? | Do
    you think {a} is more than {b}? | Is the number {a} higher than {b}? | True or
    not: {a} > {b} | Check if {a} > {b}. | Would you say {a} is bigger than {b}? |
    Is it so that {a} is greater than {b}? | Is it right that {a} is bigger than
    {b}? | {a} larger than {b}?
    """),
            held_out=ways("""
    Is it true that {a} is larger than {b}? | Is {a} > {b}? | {a} is larger than
    {b}, true? | Please check: is {a} larger than {b}?
    """),
        ),
        "de": Phrasings(
            train=ways("""
    Ist {a} größer als {b}? | Ist {a} mehr als {b}? | Stimmt es, dass {a} größer als
    {b} ist? | Sag mir, ob {a} größer als {b} ist. | {a} ist größer als {b}, stimmt
    das? | Kannst du sagen, ob {a} mehr als {b} ist? | Prüfe, ob {a} > {b}. |
    Ist {a} > {b}? | Ist es wahr, dass {a} größer als {b} ist? | Ist es
    richtig, dass {a} mehr ist als {b}? | {a} größer als {b}? | Ist {a} höher als
    {b}?
    """),
            held_out=ways("""
    Stimmt es, dass {a} mehr als {b} ist? | Ist die Zahl {a} größer als {b}? |
    Meinst du, dass {a} mehr als {b} ist?
    """),
        ),
    },
    "is-smaller": {
        "en": Phrasings(
            train=ways("""
    Is {a} smaller than {b}? | is {a} less than {b} | {a} < {b}? | Is it true that
    {a} < {b}? | Is {a} the smaller one, compared with {b}? | Can you tell me if {a}
    is smaller than {b}? | Tell me whether {a} is less than {b}. | {a} is less than
    {b}. Is that right? | Do you think {a} is less than {b}? | Is the number {a}
    lower than {b}? | True or not: {a} < {b} | Check if {a} < {b}. | Would you say
    {a} is smaller than {b}? | Is it so that {a} is less than {b}? | Is it right
    that {a} is lower than {b}? | Is {a} < {b}? | {a} smaller than {b}?
    """),
            held_out=ways("""
    Is it true that {a} is smaller than {b}? | {a} is smaller than {b}, true? |
    Please check: is {a} less than {b}?
    """),
        ),
        "de": Phrasings(
            train=ways("""
    Ist {a} kleiner als {b}? | Ist {a} weniger als {b}? | Stimmt es, dass {a}
    kleiner als {b} ist? | Sag mir, ob {a} kleiner als {b} ist. | {a} ist kleiner
    als {b}, stimmt das? | Kannst du sagen, ob {a} weniger als {b} ist? | Prüfe, ob
    {a} < {b}. | Ist {a} < {b}? | Ist es wahr, dass {a} kleiner als {b}
    ist? | Ist es richtig, dass {a} weniger ist als {b}? | {a} kleiner als {b}? |
    Ist {a} niedriger als {b}?
    """),
            held_out=ways("""
    Stimmt es, dass {a} weniger als {b} ist? | Ist die Zahl {a} kleiner als {b}? |
    Meinst du, dass {a} weniger als {b} ist?
    """),
        ),
    },
    "countdown": {
        "en": Phrasings(
            train=ways("""
    Use {n} to make {t}. | Use the numbers {n} to make {t}. | Make {t} from {n}. |
    Make {t} with {n} | Make {t} out of the numbers {n}. | Countdown: {n} -> {t} |
    countdown {n} target {t} | Countdown: numbers {n}, target {t} |
    How can I make {t} from {n}? | How do I get {t} from {n}? |
    How do you make {t} using {n}? | Combine {n} to get {t}. |
    Get {t} using {n}, each number once. |
    Find an expression with {n} that equals {t}. |
    Using each of {n} once, make {t}. | Please use {n} to make {t}. |
    Can you make {t} from {n}? | Reach {t} with {n}. | Numbers: {n}. Target: {t}. |
    I have {n}. Make {t}.
    """),
            held_out=ways("""
    Can you use {n} to make {t}? | Find a way to make {t} from {n}. |
    How can I get {t} with {n}? | Combine the numbers {n} to make {t}. |
    Please make {t} using {n}.
    """),
        ),
        "de": Phrasings(
            train=ways("""
    Bilde {t} aus {n}. | Bilde {t} aus den Zahlen {n}. | Mache {t} aus {n} |
    Erreiche {t} mit {n}. | Countdown: {n}, Ziel {t} |
    Wie komme ich mit {n} auf {t}? | Wie mache ich {t} aus {n}? |
    Nutze {n}, um {t} zu bilden. | Finde einen Ausdruck aus {n}, der {t} ergibt. |
    Kannst du {t} aus {n} bilden? | Zahlen: {n}. Ziel: {t}. |
    Ich habe {n}. Bilde {t}.
    """),
            held_out=ways("""
    Wie bilde ich {t} aus {n}? | Kannst du {t} mit {n} erreichen? |
    Bilde bitte {t} aus {n}.
    """),
        ),
    },
}
