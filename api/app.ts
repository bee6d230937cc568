// The API as handlers for Node's HTTP server. Outermost: a request id on every answer, and a problem for every error.
import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Tracer } from '@opentelemetry/api';
import Router from '@koa/router';
import Koa from 'koa';
import type { Context, Next } from 'koa';
import { APPROVE_ABOVE_ROWS, DEFAULT_LIMITS } from '../config/configuration.ts';
import type { LimitSettings } from '../config/configuration.ts';
import type { Ledger } from '../ledger/contract/ledger.ts';
import { AbideError, ERRORS } from '../suppression/errors.ts';
import { NOTHING_DECLARED } from '../suppression/scope.ts';
import type { DeclaredScopes } from '../suppression/scope.ts';
import { EVERY_ANSWER } from './every-answer.ts';
import { authorizedOf, createAuthorize } from './guard/authorize.ts';
import { createLimits } from './guard/limits.ts';
import { createRooms } from './guard/rooms.ts';
import type { Room, Rooms } from './guard/rooms.ts';
import { createTrace } from './guard/trace.ts';
import { createRoutes } from './operation.ts';
import type { Routes } from './operation.ts';
import { addHealth } from './ops/health.ts';
import { createMetrics } from './ops/metrics.ts';
import type { Metrics } from './ops/metrics.ts';
import { answerProblem, asAbideError } from './problem.ts';
import { addReceiptKeys } from './public/receipt-keys.ts';
import { addReference } from './public/reference.ts';
import type { ApiLog } from './deps.ts';
import { addSecurityTxt } from './public/security-txt.ts';
import type { SecurityContact } from './public/security-txt.ts';
import { endOf, isRetired, pageOf, successorOf, versionOf } from './version.ts';
import type { Versions } from './version.ts';
import { VERSIONS } from './versions.ts';

export type Handler = ((request: IncomingMessage, response: ServerResponse) => void) & {
  /** Answers every long poll and `Prefer: wait` with what is known now, because the server stops. */
  readonly endWaits: () => void;
  /** Whether so much is under way that nobody may take long to send a body. */
  readonly isCrowded: () => boolean;
  /** Told of what the listener cannot do, such as taking one more connection; it goes on. */
  readonly onListenerError: (error: Error) => void;
};

export type App = {
  readonly handler: Handler;
  /** Health and metrics for a listener of their own; undefined if `handler` answers them. */
  readonly opsHandler: Handler | undefined;
  readonly metrics: Metrics;
};

/** `opsOnSameListener` is for loopback: elsewhere health and metrics are nobody's business. */
export function createApp({
  ledger,
  log,
  defaultRegion,
  declared = NOTHING_DECLARED,
  approveAboveRows = APPROVE_ABOVE_ROWS,
  opsOnSameListener,
  isReady = () => true,
  tracer,
  security,
  versions = VERSIONS,
  limits: settings = DEFAULT_LIMITS,
  now,
  rooms: sizes,
  bodyBytes,
}: {
  ledger: Ledger;
  log: ApiLog;
  defaultRegion?: string | undefined;
  /** Topics and purposes; absent: there are only channels. */
  declared?: DeclaredScopes | undefined;
  approveAboveRows?: number | undefined;
  opsOnSameListener: boolean;
  isReady?: () => boolean;
  /** Undefined: no spans. */
  tracer?: Tracer | undefined;
  /** Undefined: there is no security.txt. */
  security?: SecurityContact | undefined;
  /** For tests. */
  versions?: Versions;
  limits?: LimitSettings;
  /** For tests: the clock that rates go by. */
  now?: () => number;
  /** For tests: how much is held at once. */
  rooms?: Readonly<Record<Room, number>>;
  bodyBytes?: number;
}): App {
  const metrics = createMetrics(() => rooms.held());
  const rooms = createRooms({ onRefused: (of) => metrics.refused(of), rooms: sizes, bodyBytes });
  const closing = new AbortController();
  const endWaits = (): void => closing.abort();
  const onListenerError = (error: Error): void =>
    log.error({ error }, 'the listener could not do something, and goes on');
  const api = new Router({ sensitive: true });
  const ops = opsOnSameListener ? api : new Router({ sensitive: true });
  addHealth(ops, { ledger, metrics, isReady });
  const limits = createLimits({ settings, onLimited: (of) => metrics.limited(of), log, now });
  const authorize = createAuthorize(ledger, limits);
  const deps = { ledger, defaultRegion, declared, approveAboveRows, log, closing: closing.signal };
  const pathsOfWorkers: string[] = [];
  for (const [version, { resources }] of Object.entries(versions)) {
    const served = createRoutes(api, authorize, (ctx) => {
      const { client, keyId } = authorizedOf(ctx).caller;
      ledger.countUse({ version, client, keyId });
      metrics.called(version);
    });
    const routes: Routes = {
      add: (operation, handler) => {
        if (operation.tag === 'Workers') pathsOfWorkers.push(operation.path);
        served.add(operation, handler);
      },
    };
    for (const add of resources) add(routes, deps);
    // A version that nobody calls shows as 0 and is not left out.
    if (resources.length > 0) metrics.called(version, 0);
  }
  addReference(api, versions);
  addReceiptKeys(api, ledger);
  if (security !== undefined) addSecurityTxt(api, security);
  const doorOf = createDoorOf(pathsOfWorkers);
  return {
    handler: Object.assign(toHandler(api, { log, metrics, rooms, doorOf, tracer, versions }), {
      endWaits,
      isCrowded: () => rooms.isCrowded(),
      onListenerError,
    }),
    opsHandler: opsOnSameListener
      ? undefined
      : Object.assign(toHandler(ops, { log, metrics, rooms, doorOf, tracer: undefined, versions: {} }), {
          endWaits: () => undefined,
          isCrowded: () => false,
          onListenerError,
        }),
    metrics,
  };
}

function toHandler(
  router: Router,
  {
    log,
    metrics,
    rooms,
    doorOf,
    tracer,
    versions,
  }: {
    log: ApiLog;
    metrics: Metrics;
    rooms: Rooms;
    doorOf: DoorOf;
    tracer: Tracer | undefined;
    versions: Versions;
  },
): (request: IncomingMessage, response: ServerResponse) => void {
  const koa = new Koa();
  koa.on('error', (error: unknown) => {
    if (!isGone(error)) log.error({ error }, 'a response failed');
  });
  koa.use(createTrace(tracer));
  koa.use(outermost({ log, metrics, rooms, doorOf }));
  koa.use(sayEnd(router, versions));
  koa.use(router.routes());
  koa.use(gone(versions));
  koa.use(methodNotAllowed(router));
  const callback = koa.callback();
  return (request, response) => void callback(request, response);
}

/** A client that left before its answer is no failure of ours. */
const isGone = (error: unknown): boolean =>
  error instanceof Error &&
  'code' in error &&
  ['ECONNRESET', 'EPIPE', 'ECONNABORTED', 'ERR_STREAM_PREMATURE_CLOSE'].includes(String(error.code));

const OPS: readonly string[] = ['/readyz', '/metrics'];

/** Which room a path is let into before its key is known. */
type DoorOf = (path: string) => Room;

function createDoorOf(pathsOfWorkers: readonly string[]): DoorOf {
  const paths = pathsOfWorkers.map((path) => path.replace(/:\w+/g, '[^/]+'));
  const ofWorkers = new RegExp(`^(?:${paths.join('|')})$`);
  return (path) => (OPS.includes(path) ? 'ops' : ofWorkers.test(path) ? 'worker_door' : 'door');
}

/**
 * Takes a place. It is free again once the answer was sent (or the client has gone) and the returned function was called, which
 * says that nothing works on the request any more.
 */
function takePlace(ctx: Context, rooms: Rooms, doorOf: DoorOf): () => void {
  if (ctx.path === '/livez') return () => undefined;
  const place = rooms.enter(doorOf(ctx.path));
  ctx.state.place = place;
  let left = 2;
  const leave = (): void => {
    left -= 1;
    if (left === 0) place.leave();
  };
  ctx.res.once('close', leave);
  return leave;
}

function outermost({
  log,
  metrics,
  rooms,
  doorOf,
}: {
  log: ApiLog;
  metrics: Metrics;
  rooms: Rooms;
  doorOf: DoorOf;
}) {
  return async (ctx: Context, next: Next): Promise<void> => {
    const began = performance.now();
    const requestId = randomUUID();
    ctx.state.requestId = requestId;
    ctx.set('X-Request-Id', requestId);
    for (const [name, value] of EVERY_ANSWER) ctx.res.setHeader(name, value);
    let leave: (() => void) | undefined;
    try {
      leave = takePlace(ctx, rooms, doorOf);
      const ambiguity = ambiguityOf(ctx.req);
      if (ambiguity !== undefined) {
        ctx.set('Connection', 'close');
        throw new AbideError('invalid-request', ambiguity);
      }
      await next();
      if (ctx.status === 404 && ctx.body == null) throw new AbideError('not-found');
    } catch (thrown) {
      const error = asAbideError(thrown);
      // Not only errors that nobody expected: a key that the ring lacks shows in a request as well.
      if (ERRORS[error.code].status === 500)
        log.error({ error: error.cause ?? error, requestId }, 'a request failed');
      answerProblem(ctx, error, requestId);
      if (!ctx.req.complete) drain(ctx.req);
    } finally {
      leave?.();
    }
    const route = (ctx as { routerPath?: string; _matchedRoute?: unknown })._matchedRoute;
    metrics.request(
      KNOWN_METHODS.has(ctx.method) ? ctx.method : 'other',
      typeof route === 'string' ? route : 'none',
      ctx.status,
      (performance.now() - began) / 1000,
    );
  };
}

/** If one of these comes twice, Node takes the first; a proxy before us may take the last. */
const ONCE: ReadonlyMap<string, number> = new Map([
  ['host', 1],
  ['authorization', 2],
  ['content-type', 4],
]);
/** Most headers cannot be one of these, by their length alone. */
const ONCE_LENGTHS: ReadonlySet<number> = new Set([...ONCE.keys()].map((name) => name.length));

/** Why a proxy before us could read a request otherwise: whom it is for, or from. Node's parser has refused the rest already. */
function ambiguityOf({ httpVersion, headers, rawHeaders }: IncomingMessage): string | undefined {
  if (httpVersion !== '1.1' && httpVersion !== '1.0') return 'Only HTTP/1.1 and HTTP/1.0 are supported.';
  if (headers.host === undefined && httpVersion === '1.1') return 'HTTP/1.1 needs a Host header.';
  let seen = 0;
  for (let n = 0; n < rawHeaders.length; n += 2) {
    const name = rawHeaders[n]!;
    if (!ONCE_LENGTHS.has(name.length)) continue;
    const bit = ONCE.get(name.toLowerCase()) ?? 0;
    if ((seen & bit) !== 0) return `The header ${name.toLowerCase()} appears twice.`;
    seen |= bit;
  }
  return undefined;
}

/** Paths that can stand as they are within the angle brackets of a link. */
const PLAIN_PATH = /^[\w/.~%-]+$/;

/** Every answer of a deprecated version, a problem as well, says so and where the same is found in the next version. */
function sayEnd(router: Router, versions: Versions) {
  const say = (ctx: Context): void => {
    const name = versionOf(ctx.path, versions);
    if (name === undefined || versions[name]!.deprecatedAt === undefined) return;
    const next = successorOf(name, versions);
    const path = ctx.path.replace(/^\/v\d+/, `/${next}`);
    const isThere = PLAIN_PATH.test(path) && router.match(path, ctx.method).route;
    const { headers, links } = endOf(
      versions[name]!,
      next === undefined ? undefined : isThere ? path : pageOf(next),
    );
    ctx.set(headers);
    // Added to the answer's own links, such as a list's next page.
    ctx.append('Link', [...links]);
  };
  return async (ctx: Context, next: Next): Promise<void> => {
    try {
      await next();
    } finally {
      say(ctx);
    }
  };
}

/** Answers for every path of a version that is retired. */
const gone = (versions: Versions) => (ctx: Context, next: Next) => {
  const name = versionOf(ctx.path, versions);
  if (name !== undefined && isRetired(versions[name]!)) throw new AbideError('version-retired');
  return next();
};

const DRAIN_BYTES_MAX = 8 * 1024 * 1024;

/**
 * Reads what is left of a refused body and drops it: a socket closed with unread bytes resets the connection, and the
 * client would see that instead of the answer. Bounded by size here and by time in the server.
 */
function drain(request: IncomingMessage): void {
  let length = 0;
  request.on('error', () => undefined);
  request.on('data', (chunk: Buffer) => {
    length += chunk.length;
    if (length > DRAIN_BYTES_MAX) request.destroy();
  });
}

const KNOWN_METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);

/** A path that exists, with a method that does not. Opt-outs say why: they cannot be taken back. */
function methodNotAllowed(router: Router) {
  return (ctx: Context): void => {
    const allowed = new Set(
      router.stack
        .filter((layer) => layer.methods.length > 0 && layer.match(ctx.path))
        .flatMap((layer) => layer.methods),
    );
    if (allowed.size === 0 || allowed.has(ctx.method)) return;
    ctx.set('Allow', [...allowed].join(', '));
    throw new AbideError(
      ['DELETE', 'PUT', 'PATCH'].includes(ctx.method) && /^\/v\d+\/opt-outs(?:\/|$)/.test(ctx.path)
        ? 'opt-outs-are-irreversible'
        : 'method-not-allowed',
    );
  };
}
