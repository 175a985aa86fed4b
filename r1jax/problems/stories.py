"""Word problems: short stories about people and things, one operation each.

In a template {name} is a person, {things} what is counted, {a} and {b} the numbers; a
product is of {a} groups and {b} things in each.
"""

from r1jax.problems.phrasings import Phrasings, ways
from r1jax.problems.problem import Language

NAMES = ways("""
    Anna | Ben | Clara | David | Emma | Felix | Greta | Hugo | Ida | Jonas | Karl |
    Lena | Max | Nina | Oskar | Paula | Rosa | Simon | Tim | Vera | Alex | Maria |
    Peter | Sofia | Tom | Lisa | Leon | Mia | Noah | Sara | Eva | Paul | Laura |
    Jan | Julia | Lukas | Amir | Yuki | Olga | Ali
    """)
THINGS: dict[Language, tuple[str, ...]] = {
    "en": ways("""
    apples | books | pencils | cards | stamps | marbles | coins | stickers |
    shells | cookies | flowers | eggs | balls | stones | tickets | oranges | cups |
    toys | pens | plums | bricks | candies
    """),
    "de": ways("""
    Äpfel | Bücher | Stifte | Karten | Briefmarken | Murmeln | Münzen | Sticker |
    Muscheln | Kekse | Blumen | Eier | Bälle | Steine | Birnen | Orangen | Tassen |
    Nüsse | Kerzen | Pflaumen | Bonbons
    """),
}
INSIGHTS: dict[str, dict[Language, str]] = {
    "add": {"en": "More come in: add.", "de": "Es werden mehr: addieren."},
    "subtract": {"en": "Take away: subtract.", "de": "Weniger: subtrahieren."},
    "multiply": {"en": "Equal groups: multiply.", "de": "Gleiche Gruppen: mal."},
}
STORIES: dict[str, dict[Language, Phrasings]] = {
    "add": {
        "en": Phrasings(
            train=ways("""
    {name} has {a} {things} and gets {b} more. How many {things} does {name} have
    now? |
    {name} had {a} {things}. Then {name} bought {b} more. How many {things} are
    there now? |
    There are {a} {things} in a box. {name} puts in {b} more. How many {things} are
    in the box? |
    {name} finds {a} {things} on Monday and {b} on Tuesday. How many {things} is
    that in all? |
    {name} has {a} {things}. A friend has {b} {things}. How many do they have
    together? |
    {a} {things} are on the table and {b} on the floor. How many {things} are there
    in total? | {name} got {b} new {things} and had {a} before. How many now?
    """),
            held_out=ways("""
    {name} has {a} {things}. Then {name} finds {b} more. How many {things} does
    {name} have in total? |
    {name} bought {a} {things} on Monday and {b} on Tuesday. How many {things} are
    there together?
    """),
        ),
        "de": Phrasings(
            train=ways("""
    {name} hat {a} {things} und bekommt {b} dazu. Wie viele {things} hat {name}
    jetzt? |
    {name} hatte {a} {things} und kauft noch {b}. Wie viele {things} sind es jetzt?
    |
    In einer Kiste sind {a} {things}. {name} legt {b} dazu. Wie viele {things} sind
    in der Kiste? |
    {name} findet am Montag {a} {things} und am Dienstag {b}. Wie viele sind es
    zusammen? |
    {name} hat {a} {things}, ein Freund hat {b}. Wie viele {things} haben sie
    zusammen?
    """),
            held_out=ways("""
    {name} hat {a} {things} und findet {b} dazu. Wie viele sind es zusammen?
    """),
        ),
    },
    "subtract": {
        "en": Phrasings(
            train=ways("""
    {name} has {a} {things} and gives away {b}. How many {things} are left? |
    {name} had {a} {things} and lost {b}. How many {things} does {name} have now? |
    There are {a} {things} in a box. {name} takes out {b}. How many are left in the
    box? | {name} brings {a} {things}. {b} are sold. How many {things} remain? |
    Of {a} {things}, {b} are red. How many {things} are not red? |
    {name} needs {a} {things} and has {b}. How many are missing? |
    {name} has {a} {things}, a friend has {b}. How many more does {name} have?
    """),
            held_out=ways("""
    There are {a} {things}. {name} takes {b} away. How many {things} remain? |
    {name} had {a} {things} and gave away {b}. How many does {name} have now?
    """),
        ),
        "de": Phrasings(
            train=ways("""
    {name} hat {a} {things} und gibt {b} ab. Wie viele {things} bleiben übrig? |
    {name} hatte {a} {things} und verliert {b}. Wie viele {things} hat {name} noch?
    |
    In einer Kiste sind {a} {things}. {name} nimmt {b} heraus. Wie viele bleiben in
    der Kiste? | Von {a} {things} sind {b} rot. Wie viele sind nicht rot? |
    {name} braucht {a} {things} und hat {b}. Wie viele fehlen?
    """),
            held_out=ways("""
    {name} hat {a} {things} und verliert {b}. Wie viele bleiben übrig?
    """),
        ),
    },
    "multiply": {
        "en": Phrasings(
            train=ways("""
    There are {a} boxes with {b} {things} each. How many {things} are there in all?
    |
    {name} has {a} bags with {b} {things} in each bag. How many {things} does {name}
    have? |
    {name} buys {b} {things} every day for {a} days. How many {things} is that? |
    {a} children get {b} {things} each. How many {things} are needed? |
    {name} puts {things} in {a} rows of {b}. How many {things} are there? |
    One box holds {b} {things}. How many {things} are in {a} boxes?
    """),
            held_out=ways("""
    {name} has {a} boxes of {b} {things} each. How many {things} is that in all? |
    {a} friends have {b} {things} each. How many {things} are there together?
    """),
        ),
        "de": Phrasings(
            train=ways("""
    In {a} Kisten liegen je {b} {things}. Wie viele {things} sind es zusammen? |
    {name} hat {a} Beutel mit je {b} {things}. Wie viele {things} hat {name}? |
    {name} kauft {a} Tage lang jeden Tag {b} {things}. Wie viele sind es? |
    {a} Kinder bekommen je {b} {things}. Wie viele {things} braucht man? |
    In einer Kiste sind {b} {things}. Wie viele sind in {a} Kisten?
    """),
            held_out=ways("""
    {name} hat {a} Kisten mit je {b} {things}. Wie viele sind es zusammen?
    """),
        ),
    },
}
