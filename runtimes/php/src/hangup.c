/* The client's hang-up; hangup.h has the interface. */

#define _GNU_SOURCE
#include "hangup.h"

#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include "php.h"
#include "php_globals.h"
#include "php_ini.h"

static ZEND_INI_MH((*modify));
static int channel = -1;
/* The process that may use the channel; processes that the script has forked must not. */
static pid_t speaker;
static bool is_told;

static void tell(void)
{
    char word[2] = {'S', PG(ignore_user_abort) ? 1 : 0};
    if (channel < 0 || is_told == (word[1] == 1) || getpid() != speaker)
        return;
    /* If the worker is gone, this process ends in any case. */
    if (send(channel, word, sizeof word, MSG_NOSIGNAL) == sizeof word)
        is_told = word[1] == 1;
}

static ZEND_INI_MH(modified)
{
    int result = modify(entry, new_value, mh_arg1, mh_arg2, mh_arg3, stage);
    tell();
    return result;
}

void hangup_watch(void)
{
    zend_ini_entry *entry = zend_hash_str_find_ptr(EG(ini_directives), "ignore_user_abort", 17);
    if (!entry || entry->on_modify == modified)
        return;
    modify = entry->on_modify;
    entry->on_modify = modified;
}

void hangup_tell_whole(void)
{
    if (channel >= 0 && getpid() == speaker)
        send(channel, (char[2]){'F', 0}, 2, MSG_NOSIGNAL);
}

void hangup_tell(int to)
{
    channel = to;
    speaker = getpid();
    tell();
}
