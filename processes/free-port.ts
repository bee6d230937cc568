// Which ports are free is found out by listening for a moment. Another program may take one before it is used.
import { createServer } from 'node:net';
import type { AddressInfo, Server } from 'node:net';

/**
 * Listens on a port (0: any); undefined if it is taken. Without a host it listens on all addresses: a port that another program has
 * on one of them is taken as well.
 */
export const listenOn = (port: number, host?: string): Promise<Server | undefined> =>
  new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(undefined));
    server.listen({ port, host, exclusive: true }, () => resolve(server.unref()));
  });

/** The port, if it is free (0: one that is). */
export async function tryPort(port: number, host?: string): Promise<number | undefined> {
  const server = await listenOn(port, host);
  if (server === undefined) return undefined;
  const address = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return address.port;
}

export async function freePort(host?: string): Promise<number> {
  const port = await tryPort(0, host);
  if (port === undefined) throw new Error(`No port is free${host === undefined ? '' : ` on ${host}`}.`);
  return port;
}
