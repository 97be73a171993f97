"""What tests do to the event loop that they run in."""

import asyncio


async def forget_cancelled_timers():
    """asyncio keeps those, and with them the contexts they were made in, until they are due or more than half of all:
    what a context holds is in no garbage before.
    """
    loop = asyncio.get_running_loop()
    for _ in range(1000):
        loop.call_later(60, bool).cancel()
    await asyncio.sleep(0)
