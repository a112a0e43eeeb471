/*
 * The fork server: ../../README.md has its protocol with the worker.
 *
 * One thread, one loop: packets of the worker, children that have ended, and modules to prepare when nothing else is to be
 * done. A module is tried by a child of its own before it is compiled here.
 */
#pragma once

/* Returns the exit status. PHP has started. */
int serve(void);
