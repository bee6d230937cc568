import { randomInt } from 'node:crypto';
import { tryPort } from '../../processes/free-port.ts';

// Below those that a system gives to whoever asks for any, from 32,768 on Linux: neither a neighbour's listen(0) nor the near end of
// a connection takes one between its choice here and its use, or while what listens there is started again.
// Above 10,080, which no client of the fetch standard connects to.
const PORT_MIN = 10_100;
const PORT_MAX = 32_000;

/** A port of 127.0.0.1 on which nobody listens now. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = await tryPort(randomInt(PORT_MIN, PORT_MAX), '127.0.0.1');
    if (port !== undefined) return port;
  }
}
