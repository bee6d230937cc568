// A line between a client and a server that can be bad. Faults take hold of what flows next, not of what flowed.
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';

export type Fault =
  /** Everything flows. */
  | 'none'
  /** Nothing flows, nothing ends: a half-open line. */
  | 'hang'
  /** Of the next request, half arrives; then the line is cut. */
  | 'cut_request'
  /** The next request arrives; when its answer comes back, or after `spared` more of them, the line is cut instead. */
  | 'lose_answer'
  /** Every line is cut, and so is every new one. */
  | 'refuse';

export type TcpProxy = AsyncDisposable & {
  readonly port: number;
  /** Clients connected now. */
  readonly connections: number;
  /** Those of them of which `hang` has swallowed something. */
  readonly hanging: number;
  /** `none` after `hang` cuts the lines that hung, since what they swallowed is gone. */
  setFault(fault: Fault, spared?: number): void;
};

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
    client.on('data', (chunk) => {
      if (fault === 'hang') {
        hung.add(client);
      } else if (fault === 'cut_request') {
        upstream.write((chunk as Buffer).subarray(0, chunk.length / 2), () => cut(client));
      } else {
        isAsked ||= fault === 'lose_answer';
        upstream.write(chunk);
      }
    });
    upstream.on('data', (chunk) => {
      if (fault === 'hang') hung.add(client);
      else if (fault === 'lose_answer' && isAsked && (spared -= 1) < 0) cut(client);
      else client.write(chunk);
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
