"""The side streams: stateful work at a low rate, in a process of its own. The only home of Faust."""
