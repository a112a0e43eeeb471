/*
 * The rights that a process gives up before it touches anything of a function: descriptors, memory, processes, the network.
 *
 * All restrictions hold for the process's children too, and none can be taken back. Each function returns false, with
 * errno, if the kernel refuses.
 */
#pragma once

#include <stdbool.h>

/* Ends this process when `parent` ends. False if it has ended already. */
bool restrict_life_to(int parent);

/* RLIMIT_DATA, soft and hard, in MiB. Never raises it. */
bool restrict_data(unsigned long mib_max);

/* Enters a user namespace, without the capabilities that this gives: the kernel counts its processes by themselves. */
bool restrict_to_namespace(int namespace);

/* RLIMIT_NPROC, soft and hard. Never raises it. */
bool restrict_processes(unsigned long max);

/* Sockets of the family AF_UNIX only, by seccomp. */
bool restrict_network(void);

/* Landlock: the rights that `ruleset` leaves. */
bool restrict_by_ruleset(int ruleset);

/* Landlock: nothing may be written, made or removed. True if the kernel has no Landlock. */
bool restrict_writes(void);

/* Closes all descriptors above 2 but two; -1 stands for none. */
bool restrict_descriptors(int kept, int kept_too);
