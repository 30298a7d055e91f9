"""English sentences that the honesty check runs through a model: varied in length, tone and matter."""

from __future__ import annotations

from typing import Final

SENTENCES: Final = (
    "The parcel arrived two days early and nothing inside was broken.",
    "I have asked for a refund three times and nobody has answered me.",
    "The meeting has been moved to Thursday at half past nine in the small room.",
    "What a wonderful evening, thank you all for coming!",
    "The battery is empty after an hour, which makes the whole thing useless.",
    "Water boils at a lower temperature on a high mountain.",
    "Is there a train to the airport after midnight?",
    "It works.",
    "The staff were polite, but the room was cold and the breakfast came late.",
    "She planted an apple tree behind the house in the spring of 1987.",
    "Never again.",
    "Please send the signed form to the office before the end of the month.",
    "The new version starts twice as fast and uses half the memory, as far as we can tell.",
    "My order number is 48213 and the invoice shows the wrong address.",
    "Although the critics praised the film, most of the audience left before the end.",
    "The committee approved the budget by nine votes to four after a long debate.",
    "I love how quiet this keyboard is.",
    "The bridge was closed on Monday because the river had risen by almost two metres in a single night.",
    "Can someone explain why the same request gives two different answers?",
    "The soup was too salty, the bread was stale and the waiter laughed when we complained.",
    "Copper conducts electricity better than iron does.",
    "Well done, everybody, this is the best result we have ever had.",
    "The museum opens at ten, except on public holidays.",
    "He said that he would call back within the hour; that was yesterday.",
    "Not bad at all for the price, though the manual could be clearer.",
    "The patient was given a small dose in the morning and felt better by the afternoon.",
    "Do not open the cover while the machine is running.",
    "A light rain fell over the harbour while the last boats came in, and the gulls settled on the wall.",
    "I am so angry that I could cry.",
    "The package weighs 2.5 kg and measures 30 by 20 by 15 centimetres.",
    "We walked for hours through the old town, and every street was more beautiful than the last.",
    "Nobody was hurt, but both cars had to be towed away.",
)
