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
    now? | {name} had {a} {things}. Then {name} bought {b} more. How many {things}
    are there now? | There are {a} {things} in a box. {name} puts in {b} more. How
    many {things} are in the box? | {name} finds {a} {things} on Monday and {b} on
    Tuesday. How many {things} is that in all? | {name} has {a} {things}. A friend
    has {b} {things}. How many do they have together? | {a} {things} are on the
    table and {b} on the floor. How many {things} are there in total? | {name} got
    {b} new {things} and had {a} before. How many now? | {name} has {a} {things}.
    {name} is given {b} more {things}. How many are there in all? | First {name}
    collects {a} {things}, then another {b}. How many {things} are collected? | A
    shop has {a} {things} and orders {b} more. How many {things} does it have then?
    | In one bag are {a} {things}, in another {b}. How many {things} are in both
    bags? | {name} sold {a} {things} on Friday and {b} on Saturday. How many
    {things} were sold altogether? | There were {a} {things}. {b} more came. What is
    the total? | {name} picks {a} {things}. Later {name} picks {b} more. How many
    {things} were picked in total? | Yesterday {name} made {a} {things}, today {b}.
    How many {things} are there together?
    """),
            held_out=ways("""
    {name} has {a} {things}. Then {name} finds {b} more. How many {things} does
    {name} have in total? | {name} bought {a} {things} on Monday and {b} on Tuesday.
    How many {things} are there together? | {name} counts {a} {things} and then
    about {b} more. How many is that together?
    """),
        ),
        "de": Phrasings(
            train=ways("""
    {name} hat {a} {things} und bekommt {b} dazu. Wie viele {things} hat {name}
    jetzt? | {name} hatte {a} {things} und kauft noch {b}. Wie viele {things} sind
    es jetzt? | In einer Kiste sind {a} {things}. {name} legt {b} dazu. Wie viele
    {things} sind in der Kiste? | {name} findet am Montag {a} {things} und am
    Dienstag {b}. Wie viele sind es zusammen? | {name} hat {a} {things}, ein Freund
    hat {b}. Wie viele {things} haben sie zusammen? | {name} hat {a} {things}. Dann
    kommen {b} dazu. Wie viele sind es insgesamt? | {name} sammelt erst {a}
    {things}, dann noch {b}. Wie viele sind das zusammen? | Ein Laden hat {a}
    {things} und bestellt {b} weitere. Wie viele {things} hat er dann? | {name}
    verkauft am Freitag {a} {things} und am Samstag {b}. Wie viele sind es
    insgesamt? | Auf dem Tisch liegen {a} {things}, auf dem Boden {b}. Wie viele
    liegen da zusammen? | Gestern fand {name} {a} {things}, heute {b}. Wie viele
    {things} fand {name} insgesamt? | {name} bekommt {b} {things} und hatte vorher
    {a}. Wie viele hat {name} nun?
    """),
            held_out=ways("""
    {name} hat {a} {things} und findet {b} dazu. Wie viele sind es zusammen? | In
    einem Beutel sind {a} {things}, im anderen {b}. Wie viele sind in beiden?
    """),
        ),
    },
    "subtract": {
        "en": Phrasings(
            train=ways("""
    {name} has {a} {things} and gives away {b}. How many {things} are left? | {name}
    had {a} {things} and lost {b}. How many {things} does {name} have now? | There
    are {a} {things} in a box. {name} takes out {b}. How many are left in the box? |
    {name} brings {a} {things}. {b} are sold. How many {things} remain? | Of {a}
    {things}, {b} are red. How many {things} are not red? | {name} needs {a}
    {things} and has {b}. How many are missing? | {name} has {a} {things}, a friend
    has {b}. How many more does {name} have? | {name} has {a} {things} and drops
    {b}. How many remain? | There were {a} {things}. {b} were taken. How many
    {things} are left now? | {name} had {a} {things} and sold {b} of them. How many
    {things} does {name} still have? | Out of {a} {things}, {b} are broken. How many
    are fine? | {name} wants {a} {things} but has only {b}. How many more are
    needed? | From {a} {things} {name} gives {b} to a friend. How many does {name}
    keep? | {a} {things} lie on the table. {b} fall down. How many stay? | {name}
    found {a} {things} and gave {b} back. How many {things} remain?
    """),
            held_out=ways("""
    There are {a} {things}. {name} takes {b} away. How many {things} remain? |
    {name} had {a} {things} and gave away {b}. How many does {name} have now? | A
    shop has {a} {things} and sells {b}. How many {things} are left in the shop?
    """),
        ),
        "de": Phrasings(
            train=ways("""
    {name} hat {a} {things} und gibt {b} ab. Wie viele {things} bleiben übrig? |
    {name} hatte {a} {things} und verliert {b}. Wie viele {things} hat {name} noch?
    | In einer Kiste sind {a} {things}. {name} nimmt {b} heraus. Wie viele bleiben
    in der Kiste? | Von {a} {things} sind {b} rot. Wie viele sind nicht rot? |
    {name} braucht {a} {things} und hat {b}. Wie viele fehlen? | {name} hat {a}
    {things} und verschenkt {b}. Wie viele hat {name} noch? | Es gab {a} {things}.
    {b} wurden genommen. Wie viele {things} sind noch da? | {name} hatte {a}
    {things} und verkauft {b} davon. Wie viele bleiben? | Von {a} {things} sind {b}
    kaputt. Wie viele sind heil? | {name} will {a} {things}, hat aber nur {b}. Wie
    viele braucht {name} noch? | {name} gibt von {a} {things} {b} einem Freund. Wie
    viele behält {name}? | Auf dem Tisch liegen {a} {things}. {b} fallen herunter.
    Wie viele bleiben liegen? | {name} hat {a} {things}, ein Freund hat {b}. Wie
    viele mehr hat {name}?
    """),
            held_out=ways("""
    {name} hat {a} {things} und verliert {b}. Wie viele bleiben übrig? | Ein Laden
    hat {a} {things} und verkauft {b}. Wie viele sind noch im Laden?
    """),
        ),
    },
    "multiply": {
        "en": Phrasings(
            train=ways("""
    There are {a} boxes with {b} {things} each. How many {things} are there in all?
    | {name} has {a} bags with {b} {things} in each bag. How many {things} does
    {name} have? | {name} buys {b} {things} every day for {a} days. How many
    {things} is that? | {a} children get {b} {things} each. How many {things} are
    needed? | {name} puts {things} in {a} rows of {b}. How many {things} are there?
    | One box holds {b} {things}. How many {things} are in {a} boxes? | There are
    {a} shelves with {b} {things} on each. How many {things} are there in total? |
    {name} packs {b} {things} into each of {a} boxes. How many {things} are packed?
    | Each of {a} friends brings {b} {things}. How many {things} is that altogether?
    | {name} makes {b} {things} an hour for {a} hours. How many {things} are made? |
    Every box has {b} {things}. There are {a} boxes. How many {things} are there? |
    A bag holds {b} {things}. {name} has {a} bags. How many {things} does {name}
    have? | {a} packs of {b} {things} each: how many {things}? | {name} has {a}
    plates with {b} {things} on each. How many are there together?
    """),
            held_out=ways("""
    {name} has {a} boxes of {b} {things} each. How many {things} is that in all? |
    {a} friends have {b} {things} each. How many {things} are there together? | {a}
    teams have {b} {things} each. How many {things} are there in all?
    """),
        ),
        "de": Phrasings(
            train=ways("""
    In {a} Kisten liegen je {b} {things}. Wie viele {things} sind es zusammen? |
    {name} hat {a} Beutel mit je {b} {things}. Wie viele {things} hat {name}? |
    {name} kauft {a} Tage lang jeden Tag {b} {things}. Wie viele sind es? | {a}
    Kinder bekommen je {b} {things}. Wie viele {things} braucht man? | In einer
    Kiste sind {b} {things}. Wie viele sind in {a} Kisten? | Auf {a} Tellern liegen
    je {b} {things}. Wie viele {things} sind das insgesamt? | {name} packt {b}
    {things} in jede von {a} Kisten. Wie viele {things} sind gepackt? | Jeder von
    {a} Freunden bringt {b} {things}. Wie viele sind es zusammen? | {name} macht {a}
    Stunden lang jede Stunde {b} {things}. Wie viele sind das? | Jede Kiste hat {b}
    {things}. Es sind {a} Kisten. Wie viele {things} sind es? | In einem Beutel sind
    {b} {things}. {name} hat {a} Beutel. Wie viele {things} hat {name}? | {name}
    legt {a} Reihen mit je {b} {things}. Wie viele {things} liegen da? | {a} Beutel
    mit je {b} {things}: wie viele {things}?
    """),
            held_out=ways("""
    {name} hat {a} Kisten mit je {b} {things}. Wie viele sind es zusammen? | {a}
    Gruppen haben je {b} {things}. Wie viele {things} gibt es?
    """),
        ),
    },
}
