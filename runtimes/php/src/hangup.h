/*
 * What a running script tells the worker of its client.
 *
 * PHP's directive ignore_user_abort, and its function, decide if a script goes on when its client hangs up.
 *
 * The gateway, not PHP, notices that a client has hung up, and ends the call. So the worker must know each change of
 * the directive at once.
 */
#pragma once

/* At PHP's start: begins to observe the directive. */
void hangup_watch(void);

/* In a forked child: reports the directive to the worker by `channel` if it is on, and from then on each change. */
void hangup_tell(int channel);

/* Reports that the response is complete while the script goes on, if this is a forked child. */
void hangup_tell_whole(void);
