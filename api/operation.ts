// A route and its description in the document, in one step: whatever is served is described, and nothing else is.
import type Router from '@koa/router';
import type { RouterMiddleware } from '@koa/router';
import type { Context } from 'koa';
import { z } from 'zod';
import { AbideError } from '../suppression/errors.ts';
import type { ErrorCode, Fault } from '../suppression/errors.ts';
import { shortText } from './bounded-text.ts';
import type { Authorize, KeyScope } from './guard/authorize.ts';
import { parse } from './guard/read-body.ts';
import { toProblem } from './problem.ts';
import type { Problem } from './problem.ts';

export const TAGS = {
  'Opt-outs': 'Recording what people refuse, and reading it back.',
  Grants: "The person's own later consent: the only way back.",
  Imports: 'Files of opt-outs.',
  Checks: 'May a message be sent? Without an answer, do not send.',
  Operations:
    'How far behind every store is, what it keeps failing, and whether it still holds what it acknowledged.',
  Workers:
    'What a worker that carries decisions to one store asks and reports. Its key is bound to that store; clients need none of this.',
} as const;

/** An answer's header, or one that the request may have. */
export type HeaderField = { readonly description: string; readonly schema: z.ZodType };

export type DocumentedAnswer = {
  readonly description: string;
  readonly schema: z.ZodType;
  /** JSON if absent. */
  readonly type?: 'text/event-stream';
  readonly headers?: Readonly<Record<string, HeaderField>>;
};

/** One call and its answer, which a test replays against the server. `path` has the values for `{…}` in the path. */
export type Example = {
  readonly summary: string;
  readonly path?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly status: number;
  /** Undefined: the answer goes on for as long as somebody listens. */
  readonly answer?: unknown;
};

export type Operation = {
  readonly method: 'get' | 'post';
  /** As in the router: `/v1/opt-outs/:id`. */
  readonly path: `/${string}`;
  readonly id: string;
  readonly tag: keyof typeof TAGS;
  readonly summary: string;
  readonly description: string;
  /** One of these is needed. */
  readonly scopes: readonly [KeyScope, ...KeyScope[]];
  /** What stands for each `:name` of the path. */
  readonly params?: Readonly<Record<string, z.ZodType>>;
  readonly query?: z.ZodObject;
  readonly headers?: Readonly<Record<string, HeaderField>>;
  readonly body?: z.ZodType;
  /** A body that is not JSON: it is read as it comes. */
  readonly file?: { readonly types: readonly string[]; readonly description: string };
  readonly answers: Readonly<Record<number, DocumentedAnswer>>;
  /** Besides those that every call may be answered with. */
  readonly problems?: readonly ErrorCode[];
  readonly examples: Readonly<Record<string, Example>>;
};

export type Routes = {
  /** Lets in callers by the operation's scopes, then handles. */
  add(operation: Operation, handler: RouterMiddleware): void;
};

const NO_QUERY = z.strictObject({});

/** Serves what is added; `onCalled` sees each call that was let in. */
export const createRoutes = (
  router: Router,
  authorize: Authorize,
  onCalled: (ctx: Context) => void = () => undefined,
): Routes => ({
  add: (operation, handler) => {
    const called: RouterMiddleware = (ctx, next) => {
      onCalled(ctx);
      // `?dry_run=true` beside a call that knows none would record.
      if (operation.method === 'post' && operation.query === undefined) parse(NO_QUERY, { ...ctx.query });
      return next();
    };
    router[operation.method](operation.path, authorize(...operation.scopes), called, handler);
  },
});

/** An instant as every answer has it: in UTC, with milliseconds. */
export const Instant = z
  .string()
  .regex(/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$/)
  .meta({ title: 'Instant', format: 'date-time', description: 'RFC 3339, in UTC, with milliseconds.' });

/** An id as every answer has it. */
export const Id = z.uuid().meta({ title: 'Id', description: 'UUIDv7.' });

/** A store's name in a path. */
export const StoreName = shortText(63).describe('As in `abide.yaml`.');

export const exampleProblem = (
  code: ErrorCode,
  { detail, errors }: { detail?: string; errors?: readonly Fault[] } = {},
): Problem =>
  toProblem(
    new AbideError(code, detail, errors === undefined ? {} : { errors }),
    '0c7a9a2e-9d8b-4f0e-8d43-2f1d2a3b4c5d',
  );
