/*
 * Whether a script goes on when its client hangs up: PHP's directive ignore_user_abort, and the function of that name.
 *
 * The gateway, not PHP, notices that a client has gone, and ends the call. So the worker must know each change of the
 * directive at once.
 */
#pragma once

/* At PHP's start: looks at the directive in passing. */
void hangup_watch(void);

/* In a forked child: tells the worker by `channel` what the directive says, where it is on, and from then on each change. */
void hangup_tell(int channel);
