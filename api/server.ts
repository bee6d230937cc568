// A bounded HTTP server. What Node itself refuses (headers too large, malformed requests) is a problem like any other.
import { randomUUID } from 'node:crypto';
import { createServer, STATUS_CODES } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { AbideError, ERRORS } from '../suppression/errors.ts';
import type { ErrorCode } from '../suppression/errors.ts';
import type { Handler } from './app.ts';
import { EVERY_ANSWER } from './every-answer.ts';
import { PROBLEM_TYPE, toProblem } from './problem.ts';

const HEADER_BYTES_MAX = 16 * 1024;
const HEADERS_MS_MAX = 10_000;
/** Reading a whole request; longer than any body but a file takes, shorter than a slow-request attack pays. */
const REQUEST_MS_MAX = 30_000;
/** A file is waited for as long as it keeps coming: each of so many bytes gives another second. */
const BYTES_A_SECOND_MIN = 64 * 1024;
/** How often the times above are looked at; Node's own 30 s would double them. */
const TIMES_CHECKED_MS = 1_000;
const KEEP_ALIVE_MS = 65_000;
const CONNECTIONS_MAX = 10_000;
const CLOSE_MS_MAX = 10_000;
const IDLE_CHECKED_MS = 20;
/** What a refused client is given to read why. */
const LINGER_MS = 1_000;

export type Listening = {
  readonly url: string;
  readonly port: number;
  /** Stops accepting, ends long polls and what idles, lets the rest end (at most 10 s). */
  close(): Promise<void>;
};

type Limits = { headersMs?: number; requestMs?: number; checkedMs?: number; closeMs?: number };

/** `limits` are for tests. */
export async function listen(
  handler: Handler,
  { host, port }: { host: string; port: number },
  {
    headersMs = HEADERS_MS_MAX,
    requestMs = REQUEST_MS_MAX,
    checkedMs = TIMES_CHECKED_MS,
    closeMs = CLOSE_MS_MAX,
  }: Limits = {},
): Promise<Listening> {
  let closing = false;
  /** The latest request of a connection and its answer. */
  const running = new WeakMap<Duplex, { request: IncomingMessage; response: ServerResponse }>();
  /** Requests whose bodies are on their way: since when, and what their connections had read by then. */
  const arriving = new Map<IncomingMessage, { readonly since: number; readonly read: number }>();
  const onRequest = (request: IncomingMessage, response: ServerResponse): void => {
    running.set(request.socket, { request, response });
    arriving.set(request, { since: performance.now(), read: request.socket.bytesRead });
    if (closing) response.shouldKeepAlive = false;
    handler(request, response);
  };
  const server = createServer({
    maxHeaderSize: HEADER_BYTES_MAX,
    headersTimeout: headersMs,
    // Node's own would end a file that takes longer, however fast it comes: see `bodies` below.
    requestTimeout: 0,
    connectionsCheckingInterval: checkedMs,
    keepAliveTimeout: KEEP_ALIVE_MS,
    // Node would answer a missing Host and an unknown Expect by itself and without a problem: app.ts does.
    requireHostHeader: false,
    noDelay: true,
  });
  server.on('request', onRequest);
  server.on('checkExpectation', onRequest);
  server.on('connect', (_request, socket: Duplex) => refuse(socket, 'invalid-request'));
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Duplex) => {
    // Whatever arrives after the refusal is dropped; the linger below ends it.
    if (socket.writableEnded) return;
    if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy();
    const before = running.get(socket);
    if (before !== undefined && before.request.complete && !before.response.writableFinished) {
      // What could not be read came behind a request that is still running. The next answer on this connection is that
      // one's, and it may be a recorded opt-out: a refusal here would be taken for its answer.
      before.response.shouldKeepAlive = false;
      before.response.once('finish', () => socket.end());
      return;
    }
    if (before !== undefined && !before.request.complete && before.response.headersSent)
      return void socket.destroy();
    refuse(socket, codeOf(error));
  });
  server.maxConnections = CONNECTIONS_MAX;
  // Bytes bound them. Node's own bound on their number leaves the rest out and says nothing.
  server.maxHeadersCount = 0;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, resolve);
  });
  const bodies = setInterval(() => {
    const now = performance.now();
    for (const [request, { since, read }] of arriving) {
      const { socket } = request;
      if (request.complete || socket.destroyed) arriving.delete(request);
      else if (now - since > requestMs + ((socket.bytesRead - read) / BYTES_A_SECOND_MIN) * 1000) {
        arriving.delete(request);
        server.emit('clientError', Object.assign(new Error(), { code: 'ERR_HTTP_REQUEST_TIMEOUT' }), socket);
      }
    }
  }, checkedMs);
  server.once('close', () => clearInterval(bodies));
  const address = server.address() as AddressInfo;
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${address.port}`,
    port: address.port,
    close: async () => {
      closing = true;
      const closed = new Promise((resolve) => server.close(resolve));
      handler.endWaits();
      // A connection that is busy now may be kept alive by its client for a minute after its answer.
      const idle = setInterval(() => server.closeIdleConnections(), IDLE_CHECKED_MS);
      const late = setTimeout(() => server.closeAllConnections(), closeMs);
      await closed;
      clearInterval(idle);
      clearTimeout(late);
    },
  };
}

const codeOf = ({ code }: NodeJS.ErrnoException): ErrorCode =>
  code === 'HPE_HEADER_OVERFLOW'
    ? 'headers-too-large'
    : code === 'ERR_HTTP_REQUEST_TIMEOUT'
      ? 'request-timeout'
      : 'invalid-request';

/** Answers where there is no request to answer, and ends the connection once the client had time to read. */
function refuse(socket: Duplex, code: ErrorCode): void {
  const requestId = randomUUID();
  const body = JSON.stringify(toProblem(new AbideError(code), requestId));
  const { status } = ERRORS[code];
  socket.on('error', () => undefined);
  const headers = [
    ['X-Request-Id', requestId],
    ...EVERY_ANSWER,
    ['Content-Type', PROBLEM_TYPE],
    ['Content-Length', Buffer.byteLength(body)],
    ['Connection', 'close'],
  ];
  const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${lines.join('')}\r\n${body}`);
  setTimeout(() => socket.destroy(), LINGER_MS).unref();
}
