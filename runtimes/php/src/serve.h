/*
 * The fork server: ../../README.md has its protocol with the worker.
 *
 * One thread, one loop: packets of the worker, children that have ended, and, when idle, modules to prepare. A child
 * tries each module before the fork server compiles it.
 */
#pragma once

/* Returns the exit status. PHP must have started. */
int serve(void);
