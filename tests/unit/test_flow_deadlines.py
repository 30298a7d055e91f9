"""The queue by deadline behaves like a list that is sorted on every look."""

from hypothesis import given, settings
from hypothesis import strategies as st

from stream_infer.flow.deadlines import DeadlineQueue
from stream_infer.flow.pending import Pending
from stream_infer.schemas import Work

STEPS = st.lists(st.tuples(st.sampled_from(["add", "remove", "pop", "take"]), st.integers(0, 5)), max_size=40)


@settings(max_examples=80)
@given(steps=STEPS)
def test_it_is_a_sorted_list(steps: list[tuple[str, int]]) -> None:
    queue = DeadlineQueue()
    model: list[Pending] = []
    for step, number in steps:
        if step == "add":
            model.append(Pending(b"", Work("m", ""), float(number)))
            queue.add(model[-1])
        elif model and step == "remove":
            queue.remove(model.pop(number % len(model)))
        elif model and step == "pop":
            model.sort(key=lambda item: item.deadline)
            assert queue.first is model[0]
            assert queue.pop() is model.pop(0)
        elif step == "take":
            model.sort(key=lambda item: item.deadline)
            taken, model[:number] = model[: number // 2], model[number // 2 : number]
            queue.remove_from_window(taken, number)
            assert not any(item in queue for item in taken)
        assert sorted(model, key=lambda item: item.deadline) == queue.window(100)
        assert all(item in queue for item in model)
        assert len(queue) == len(model)
