// A line between a client and a server that can be bad. A fault takes hold of what flows next, not of what has flowed.
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';

export type Fault =
  /** Everything flows. */
  | 'none'
  /** Nothing flows, nothing ends: a half-open line. */
  | 'hang'
  /** Half of the next request arrives; then the line is cut. */
  | 'cut_request'
  /** The next request arrives; when its answer comes back, or after `spared` more of them, the line is cut instead. */
  | 'lose_answer'
  /** What flows arrives, a while later. */
  | 'slow'
  /** Every line is cut, and so is every new one. */
  | 'refuse';

const SLOW_MS = 300;

export type TcpProxy = AsyncDisposable & {
  readonly port: number;
  /** Clients connected now. */
  readonly connections: number;
  /** How many of them have had something swallowed by `hang`. */
  readonly hanging: number;
  /** `none` after `hang` cuts the lines that hung, since what they swallowed is gone. */
  setFault(fault: Fault, spared?: number): void;
};

/** One direction of a line: what comes after something slow does not overtake it. */
function pass(to: Socket): (chunk: Buffer, fault: Fault) => void {
  let under = 0;
  let before = Promise.resolve();
  return (chunk, fault) => {
    if (fault !== 'slow' && under === 0) {
      to.write(chunk);
      return;
    }
    under += 1;
    before = Promise.all([before, fault === 'slow' ? delay(SLOW_MS) : undefined]).then(() => {
      under -= 1;
      if (to.writable) to.write(chunk);
    });
  };
}

export async function startTcpProxy(to: { readonly host: string; readonly port: number }): Promise<TcpProxy> {
  let fault: Fault = 'none';
  let spared = 0;
  const lines = new Map<Socket, Socket>();
  const hung = new Set<Socket>();
  const cut = (client: Socket): void => {
    client.destroy();
    lines.get(client)?.destroy();
    lines.delete(client);
    hung.delete(client);
  };
  const server = createServer((client) => {
    if (fault === 'refuse') {
      client.on('error', () => undefined);
      client.destroy();
      return;
    }
    const upstream = connect(to);
    lines.set(client, upstream);
    let isAsked = false;
    const towardsUpstream = pass(upstream);
    const towardsClient = pass(client);
    client.on('data', (chunk) => {
      if (fault === 'hang') {
        hung.add(client);
      } else if (fault === 'cut_request') {
        upstream.write((chunk as Buffer).subarray(0, chunk.length / 2), () => cut(client));
      } else {
        isAsked ||= fault === 'lose_answer';
        towardsUpstream(chunk as Buffer, fault);
      }
    });
    upstream.on('data', (chunk) => {
      if (fault === 'hang') hung.add(client);
      else if (fault === 'lose_answer' && isAsked && (spared -= 1) < 0) cut(client);
      else towardsClient(chunk as Buffer, fault);
    });
    for (const socket of [client, upstream]) {
      socket.on('error', () => cut(client));
      socket.on('close', () => cut(client));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    get connections() {
      return lines.size;
    },
    get hanging() {
      return hung.size;
    },
    setFault(next, sparedAnswers = 0) {
      fault = next;
      spared = sparedAnswers;
      if (next === 'none') for (const client of [...hung]) cut(client);
      if (next === 'refuse') for (const client of [...lines.keys()]) cut(client);
    },
    async [Symbol.asyncDispose]() {
      for (const client of [...lines.keys()]) cut(client);
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
