// A component in JavaScript, for languages.rs. The query names the task. Uses the interfaces of WASI 0.2 only.

import { getArguments, getEnvironment } from 'wasi:cli/environment@0.2.12';
import { exit } from 'wasi:cli/exit@0.2.12';
import { getStderr } from 'wasi:cli/stderr@0.2.12';
import { getStdin } from 'wasi:cli/stdin@0.2.12';
import { getStdout } from 'wasi:cli/stdout@0.2.12';
import { now, subscribeDuration } from 'wasi:clocks/monotonic-clock@0.2.12';
import { createTcpSocket } from 'wasi:sockets/tcp-create-socket@0.2.12';

// The most that blockingWriteAndFlush takes.
const WRITE_BYTES_MAX = 4096;

function body() {
  const input = getStdin();
  const parts = [];
  for (;;) {
    try {
      parts.push(input.blockingRead(65536n));
    } catch (error) {
      if (error.payload?.tag === 'closed') return parts;
      throw error;
    }
  }
}

function write(output, bytes) {
  for (let at = 0; at < bytes.length; at += WRITE_BYTES_MAX) {
    output.blockingWriteAndFlush(bytes.subarray(at, at + WRITE_BYTES_MAX));
  }
}

function say(text, output = getStdout()) {
  write(output, new TextEncoder().encode(text));
}

function environment() {
  return Object.fromEntries(getEnvironment());
}

const deeds = {
  echo() {
    const output = getStdout();
    for (const part of body()) write(output, part);
  },
  count() {
    say(`${body().reduce((sum, part) => sum + part.length, 0)}\n`);
  },
  environment() {
    say(`${environment().IT_ANSWER} ${getArguments().length}\n`);
  },
  clocks() {
    const began = now();
    subscribeDuration(20_000_000n).block();
    const passed = Date.now() - Number(environment().HTTP_X_NOW);
    say(`${now() - began >= 20_000_000n} ${passed >= 0 && passed < 20_000}\n`);
  },
  randoms() {
    say(`${Math.random()}\n`);
  },
  head() {
    say('Status: 201 Created\r\nContent-Type: text/csv\r\n\r\na,b\n');
  },
  errors() {
    say('said on stderr\n', getStderr());
    say('done\n');
  },
  sockets() {
    try {
      createTcpSocket('ipv4');
      say('a socket\n');
    } catch (error) {
      say(`${error.payload}\n`);
    }
  },
  exit() {
    exit({ tag: 'err' });
  },
  fails() {
    say('out of luck\n', getStderr());
    throw undefined;
  },
};

export const run = {
  run() {
    deeds[environment().QUERY_STRING]?.();
  },
};
