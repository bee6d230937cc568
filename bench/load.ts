// A closed-loop HTTP client that costs next to nothing: the load and what is measured share two cores, and autocannon took more of
// them than the API did (for a body that changes, it builds each request anew).
import { connect } from 'node:net';
import type { Socket } from 'node:net';

/** Each connection posts the next body as soon as its answer is there. Resolves to answers per second; any but 201 throws. */
export async function postsPerSecond(
  { url, key }: { url: string; key: string },
  { connections, seconds, body }: { connections: number; seconds: number; body: () => string },
): Promise<number> {
  const { hostname, port } = new URL(url);
  const head = `POST /v1/opt-outs HTTP/1.1\r\nHost: ${hostname}:${port}\r\nAuthorization: Bearer ${key}\r\nContent-Type: application/json\r\nContent-Length: `;
  let answered = 0;
  const began = performance.now();
  const until = began + seconds * 1000;

  const drive = (socket: Socket): Promise<void> =>
    new Promise((resolve, reject) => {
      let pending = '';
      const send = (): void => {
        const text = body();
        socket.write(`${head}${Buffer.byteLength(text)}\r\n\r\n${text}`);
      };
      socket.on('data', (chunk: Buffer) => {
        pending += chunk.toString('latin1');
        const headEnd = pending.indexOf('\r\n\r\n');
        if (headEnd < 0) return;
        const lengthAt = pending.indexOf('Content-Length: ');
        const length = Number.parseInt(pending.slice(lengthAt + 16, lengthAt + 24), 10);
        if (pending.length < headEnd + 4 + length) return;
        if (!pending.startsWith('HTTP/1.1 201')) {
          reject(new Error(pending.slice(0, pending.indexOf('\r\n'))));
          socket.destroy();
          return;
        }
        pending = '';
        answered += 1;
        if (performance.now() < until) send();
        else {
          socket.end();
          resolve();
        }
      });
      socket.on('error', reject);
      send();
    });
  await Promise.all(
    Array.from({ length: connections }, async () => {
      const socket = connect({ host: hostname, port: Number(port), noDelay: true });
      await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
      await drive(socket);
    }),
  );
  return answered / ((performance.now() - began) / 1000);
}
