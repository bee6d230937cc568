// A bounded HTTP server. What Node itself refuses (headers too large, malformed requests) is a problem like any other.
import { randomUUID } from 'node:crypto';
import { createServer, STATUS_CODES } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { AbideError, ERRORS } from '../suppression/errors.ts';
import type { ErrorCode } from '../suppression/errors.ts';
import type { Handler } from './app.ts';
import { EVERY_ANSWER } from './every-answer.ts';
import { PROBLEM_TYPE, toProblem } from './problem.ts';

const HEADER_BYTES_MAX = 16 * 1024;
const HEADERS_MS_MAX = 10_000;
/** For reading a whole request: longer than any body but a file takes, shorter than a slow-request attack pays for. */
const REQUEST_MS_MAX = 30_000;
/** A file is waited for as long as it keeps coming: every time this many bytes give it another second. */
const BYTES_A_SECOND_MIN = 64 * 1024;
/** How often the times above are checked; with Node's own 30 s they would double. */
const TIMES_CHECKED_MS = 1_000;
/** Instead of REQUEST_MS_MAX while so much is under way that others are refused. */
const CROWDED_MS_MAX = 3_000;
/** If a client does not take its answer for this long, it is dropped with its connection. */
const UNREAD_MS_MAX = 30_000;
/** For all such answers together; beyond it, those that were not taken for longest go. */
const UNREAD_BYTES_MAX = 64 * 1024 * 1024;
const KEEP_ALIVE_MS = 65_000;
/** Each costs 6 KiB while it idles, and 20 with the headers of a request that never ends. */
const CONNECTIONS_MAX = 10_000;
/**
 * Connections that the system keeps until they are accepted, at most as many as it allows (net.core.somaxconn). With Node's own
 * 511, a burst leaves the rest to TCP's retries, after one second, three, seven.
 */
const BACKLOG = 4_096;
/** Requests of one connection that are worked on; what comes behind them waits in its socket. */
const PIPELINED_MAX = 32;
/**
 * Requests that wait behind another one of their connection, over all connections. Node reads 64 KiB at a time and hands over every
 * request in it: thousands, each with an answer that waits for its turn. Beyond this their connection is cut.
 */
const PIPELINED_TOGETHER_MAX = 4_096;
const CLOSE_MS_MAX = 10_000;
const IDLE_CHECKED_MS = 20;
/** Time for a refused client to read why. */
const LINGER_MS = 1_000;

export type Listening = {
  readonly url: string;
  readonly port: number;
  /** Stops accepting, ends long polls and idle connections, and lets the rest end (at most 10 s). */
  close(): Promise<void>;
};

type Limits = {
  headersMs?: number;
  requestMs?: number;
  crowdedMs?: number;
  unreadMs?: number;
  unreadBytes?: number;
  checkedMs?: number;
  closeMs?: number;
};

type Connection = {
  /** Requests whose body or answer is on its way, in order. */
  readonly exchanges: Exchange[];
  /** How many requests have answers that are not sent to their end. */
  unanswered: number;
  /** Whether it is not read for now: see PIPELINED_MAX. */
  isHeld: boolean;
};

type Exchange = {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** Since when its body has been on its way, and what the connection had read by then. */
  since: number;
  read: number;
  /** Since when the answer has been there without being taken. */
  unreadSince: number | undefined;
};

/** `limits` are for tests. */
export async function listen(
  handler: Handler,
  { host, port }: { host: string; port: number },
  {
    headersMs = HEADERS_MS_MAX,
    requestMs = REQUEST_MS_MAX,
    crowdedMs = Math.min(CROWDED_MS_MAX, requestMs),
    unreadMs = UNREAD_MS_MAX,
    unreadBytes = UNREAD_BYTES_MAX,
    checkedMs = TIMES_CHECKED_MS,
    closeMs = CLOSE_MS_MAX,
  }: Limits = {},
): Promise<Listening> {
  let closing = false;
  // By connection, and not one set of all requests: with a set, four fifths more of what requests allocate survived the small
  // garbage collections (measured). A Set that changes with each request is copied every so often, and a dropped copy holds what it
  // held.
  const connections = new Map<Duplex, Connection>();
  let pipelined = 0;
  /** Whether somebody found no connection left. */
  let isFull = false;

  const onRequest = (request: IncomingMessage, response: ServerResponse): void => {
    const { socket } = request;
    const connection = connectionOf(socket);
    const [since, read] = [performance.now(), socket.bytesRead];
    count({ request, response, since, read, unreadSince: undefined }, connection);
    if (closing) response.shouldKeepAlive = false;
    if (connection.unanswered > 1 && pipelined > PIPELINED_TOGETHER_MAX) return void socket.destroy();
    handler(request, response);
  };

  const connectionOf = (socket: Socket): Connection => {
    const known = connections.get(socket);
    if (known !== undefined) return known;
    const connection: Connection = { exchanges: [], unanswered: 0, isHeld: false };
    connections.set(socket, connection);
    socket.once('close', () => connections.delete(socket));
    // Reading a body that has come already would have Node read on.
    socket.on('resume', () => {
      if (connection.isHeld) socket.pause();
    });
    return connection;
  };

  /** Counts a request until its answer is sent or its connection is gone. With too many, a connection rests until few are left. */
  function count(exchange: Exchange, connection: Connection): void {
    const { request, response } = exchange;
    connection.exchanges.push(exchange);
    connection.unanswered += 1;
    if (connection.unanswered > 1) pipelined += 1;
    if (connection.unanswered >= PIPELINED_MAX && !connection.isHeld) {
      connection.isHeld = true;
      request.socket.pause();
    }
    response.once('close', () => {
      if (connection.unanswered > 1) pipelined -= 1;
      connection.unanswered -= 1;
      // A body that was refused may still be coming.
      if (request.complete) forget(exchange, connection);
      if (!connection.isHeld || connection.unanswered > PIPELINED_MAX / 2) return;
      connection.isHeld = false;
      request.socket.resume();
    });
  }

  function forget(exchange: Exchange, { exchanges }: Connection): void {
    const at = exchanges.indexOf(exchange);
    if (at !== -1) exchanges.splice(at, 1);
  }

  const server = createServer({
    maxHeaderSize: HEADER_BYTES_MAX,
    headersTimeout: headersMs,
    // Node's own limit would end a file that takes longer, however fast it comes: see `look` below.
    requestTimeout: 0,
    connectionsCheckingInterval: checkedMs,
    keepAliveTimeout: KEEP_ALIVE_MS,
    // Node would answer a missing Host and an unknown Expect itself, without a problem; app.ts answers them.
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
    const before = connections.get(socket)?.exchanges.at(-1);
    if (before !== undefined && before.request.complete && !before.response.writableFinished) {
      // What could not be read came behind a request that is still running. The next answer on this connection is for that one, and
      // it may be a recorded opt-out: a refusal here would be taken for its answer.
      before.response.shouldKeepAlive = false;
      before.response.once('finish', () => socket.end());
      return;
    }
    if (before !== undefined && !before.request.complete && before.response.headersSent)
      return void socket.destroy();
    refuse(socket, codeOf(error));
  });
  server.maxConnections = CONNECTIONS_MAX;
  server.on('drop', () => (isFull = true));
  // Bytes bound the headers. Node's own bound on their number leaves the rest out without a word.
  server.maxHeadersCount = 0;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port, host, backlog: BACKLOG }, () => {
      server.off('error', reject);
      // Otherwise it would be an uncaught error, which stops everything.
      server.on('error', (error) => handler.onListenerError(error));
      resolve();
    });
  });
  function look(): void {
    const now = performance.now();
    const bodyMs = handler.isCrowded() ? crowdedMs : requestMs;
    const unread: Exchange[] = [];
    for (const connection of connections.values())
      for (const exchange of [...connection.exchanges]) {
        const { request, response } = exchange;
        const { socket } = request;
        if (socket.destroyed || (request.complete && response.writableFinished)) forget(exchange, connection);
        else if (!request.complete) {
          // Bytes that wait here are no delay of the client's.
          if (request.readableLength > 0 || connection.isHeld) {
            exchange.since = now;
            exchange.read = socket.bytesRead;
          } else if (
            now - exchange.since >
            bodyMs + ((socket.bytesRead - exchange.read) / BYTES_A_SECOND_MIN) * 1000
          ) {
            server.emit(
              'clientError',
              Object.assign(new Error(), { code: 'ERR_HTTP_REQUEST_TIMEOUT' }),
              socket,
            );
            forget(exchange, connection);
          }
        } else if (response.writableEnded && response.socket !== null) {
          exchange.unreadSince ??= now;
          unread.push(exchange);
        }
      }
    let bytes = unread.reduce((sum, { response }) => sum + response.writableLength, 0);
    for (const { response, unreadSince } of unread) {
      // Only those that were there at the last look as well.
      const isLate = now - unreadSince! > unreadMs;
      if (!isLate && (bytes <= unreadBytes || unreadSince === now)) continue;
      bytes -= response.writableLength;
      response.destroy();
    }
    // Idle connections give way to callers.
    if (isFull) server.closeIdleConnections();
    isFull = false;
  }
  const looking = setInterval(look, checkedMs);
  server.once('close', () => clearInterval(looking));
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

/** Answers when there is no request to answer, and ends the connection once the client has had time to read. */
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
