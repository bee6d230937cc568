// Files of opt-outs: received as a whole, recorded as a job. Only opt-outs: no file can take one back.
import { MIMEType } from 'node:util';
import type { Context } from 'koa';
import { z } from 'zod';
import {
  FILE_BYTES_MAX,
  IMPORT_FORMATS,
  IMPORT_STATES,
  ROW_ERROR_CODES,
} from '../../ledger/contract/imports.ts';
import type { Import, ImportFormat } from '../../ledger/contract/imports.ts';
import { REASONS } from '../../ledger/contract/opt-outs.ts';
import { AbideError } from '../../suppression/errors.ts';
import type { DeclaredScopes } from '../../suppression/scope.ts';
import type { Deps } from '../deps.ts';
import { authorizedOf } from '../guard/authorize.ts';
import { isCompressed, parse, queryInteger } from '../guard/read-body.ts';
import { COLUMNS } from '../import/read-file.ts';
import { fileTooLarge, receiveFile } from '../import/receive.ts';
import { InstantSchema } from '../instant.ts';
import { CURSOR, LINK, linkNext } from '../list.ts';
import { exampleProblem, Id, Instant } from '../operation.ts';
import type { HeaderField, Operation, Routes } from '../operation.ts';
import { createScopesSchema } from './scopes.ts';

/** Uploads at a time: each holds a piece of its file in memory. */
const UPLOADS_MAX = 8;
/** Of one client: files that stall, or only come slowly, leave room for those of others. */
const UPLOADS_OF_CLIENT_MAX = UPLOADS_MAX / 2;

const createQuery = (declared: DeclaredScopes) =>
  z.strictObject({
    dry_run: z
      .enum(['true', 'false'])
      .default('false')
      .describe('`true`: counts what it would do, and records nothing.'),
    scopes: z
      .string()
      .transform((text) => text.split(/[\s;]+/).filter((word) => word !== ''))
      .pipe(createScopesSchema(declared))
      .describe('For rows without scopes of their own, separated by spaces or semicolons.')
      .optional(),
    reason: z.enum(REASONS).default('person_request').describe('For rows without a reason of their own.'),
    effective_at: InstantSchema.describe(
      'For rows without a date of their own, RFC 3339 with an offset; absent: when the file was received.',
    ).optional(),
  });

const ListQuery = z.strictObject({
  limit: queryInteger(100).default(20).describe('The most that a page has.'),
  cursor: CURSOR,
  state: z.enum(IMPORT_STATES).describe('Those in this state.').optional(),
});

const ErrorsQuery = z.strictObject({
  limit: queryInteger(1_000).default(100).describe('The most that a page has.'),
  cursor: CURSOR,
});

const count = z.int().min(0);

const ImportAnswer = z
  .object({
    object: z.literal('import'),
    api_version: z.literal('v2'),
    id: Id,
    state: z
      .enum(IMPORT_STATES)
      .describe(
        '`awaiting_approval`: another key must approve it. `pending`: it waits for its turn. `failed`: `failure` says why; what was recorded by then stays recorded.',
      ),
    dry_run: z.boolean(),
    format: z.enum(IMPORT_FORMATS),
    client: z.string().describe('Whose file it is.'),
    scopes: z.array(z.string()).nullable().describe('For rows without scopes of their own.'),
    reason: z.enum(REASONS),
    effective_at: Instant.nullable(),
    bytes: count,
    rows: z.object({ total: count, done: count }).describe('Without the header.'),
    counts: z
      .object({
        recorded: count.describe('New opt-outs, each one row.'),
        already: count.describe(
          'Rows that changed nothing: the person had already opted out, or the row was taken when the file came before.',
        ),
        invalid: count.describe('Rows that were not taken: see the errors.'),
      })
      .describe('They add up to `rows.done`. For a dry run, what would happen.'),
    created_at: Instant.describe('When the file was received.'),
    started_at: Instant.nullable(),
    finished_at: Instant.nullable(),
    approval: z
      .object({ client: z.string(), key_id: z.string(), at: Instant })
      .nullable()
      .describe('Who approved it; null if nobody had to or nobody has.'),
    failure: z.string().nullable().describe('A code of the table of errors.'),
    errors_url: z.string(),
  })
  .meta({ title: 'Import' });
export type ImportAnswer = z.output<typeof ImportAnswer>;

const ImportList = z
  .object({
    object: z.literal('list'),
    imports: z.array(ImportAnswer).describe('Newest first.'),
    next_cursor: z.string().nullable().describe('For `cursor`; null on the last page.'),
  })
  .meta({ title: 'ImportList' });

const ImportErrors = z
  .object({
    object: z.literal('list'),
    errors: z
      .array(
        z
          .object({
            row: z.int().min(1).describe('From 1, without the header and empty lines.'),
            line: z.int().min(1).describe('Where the row begins in the file.'),
            column: z.string().nullable().describe('Null: the row as a whole.'),
            code: z
              .enum(ROW_ERROR_CODES)
              .describe(
                '`invalid`: cannot be read as a value of the column. `missing`: no identifier, or no scopes. `too_far_ahead`: a date more than an hour ahead.',
              ),
          })
          .meta({ title: 'RowError' }),
      )
      .describe('Ordered by row. Never with a value.'),
    found: count.describe('How many there are; if more than 100,000, only the first 100,000 are listed.'),
    next_cursor: z.string().nullable().describe('For `cursor`; null on the last page.'),
  })
  .meta({ title: 'ImportErrors' });
export type ImportErrorsAnswer = z.output<typeof ImportErrors>;

const toAnswer = (one: Import): z.input<typeof ImportAnswer> => ({
  object: 'import',
  api_version: 'v2',
  id: one.id,
  state: one.state,
  dry_run: one.dryRun,
  format: one.format,
  client: one.client,
  scopes: one.defaults.scopes === undefined ? null : [...one.defaults.scopes],
  reason: one.defaults.reason,
  effective_at: one.defaults.effectiveAt ?? null,
  bytes: one.bytes,
  rows: { total: one.rowsTotal, done: one.rowsDone },
  counts: one.counts,
  created_at: one.receivedAt,
  started_at: one.startedAt ?? null,
  finished_at: one.finishedAt ?? null,
  approval:
    one.approval === undefined
      ? null
      : { client: one.approval.client, key_id: one.approval.keyId, at: one.approval.at },
  failure: one.failure ?? null,
  errors_url: `/v2/imports/${one.id}/errors`,
});

const IMPORT_ID = '01a21107-d3a1-7c40-9b1e-2f6a4d8c0e51';
const AT = '2026-11-24T09:00:00.000Z';
const NOT_THERE = '00000000-0000-7000-8000-000000000000';

const EXAMPLE = {
  object: 'import',
  api_version: 'v2',
  id: IMPORT_ID,
  state: 'pending',
  dry_run: false,
  format: 'csv',
  client: 'shop',
  scopes: ['email'],
  reason: 'person_request',
  effective_at: null,
  bytes: 58,
  rows: { total: 2, done: 0 },
  counts: { recorded: 0, already: 0, invalid: 0 },
  created_at: AT,
  started_at: null,
  finished_at: null,
  approval: null,
  failure: null,
  errors_url: `/v2/imports/${IMPORT_ID}/errors`,
} satisfies z.input<typeof ImportAnswer>;

const DONE = {
  ...EXAMPLE,
  state: 'done',
  rows: { total: 2, done: 2 },
  counts: { recorded: 1, already: 0, invalid: 1 },
  started_at: AT,
  finished_at: AT,
} satisfies z.input<typeof ImportAnswer>;

const LOCATION: Readonly<Record<string, HeaderField>> = {
  Location: { description: 'Where to read its progress.', schema: z.string() },
};

const TYPES: Readonly<Record<string, ImportFormat>> = { 'text/csv': 'csv', 'application/x-ndjson': 'ndjson' };

/** By RFC 4180, `text/csv` may also say whether there is a header; here there always is. */
function readType(header: string | undefined): MIMEType | undefined {
  try {
    return new MIMEType(header ?? '');
  } catch {
    return undefined;
  }
}

function formatOf(ctx: Context): ImportFormat {
  const type = readType(ctx.req.headers['content-type']);
  const format = TYPES[type?.essence ?? ''];
  const charset = (type?.params.get('charset') ?? 'utf-8').toLowerCase();
  if (format === undefined || charset !== 'utf-8' || isCompressed(ctx))
    throw new AbideError('unsupported-file-type');
  return format;
}

/** Whose imports a key may see: its own client's, or everybody's if it is there to approve them. */
const visibleTo = (ctx: Context): string | undefined => {
  const { key } = authorizedOf(ctx);
  return key.scopes.includes('imports:approve') ? undefined : key.client;
};

/** What there is too much of for one more upload of this client; undefined: there is room. */
function fullOf(uploading: readonly string[], client: string): string | undefined {
  if (uploading.length >= UPLOADS_MAX) return `${UPLOADS_MAX} files`;
  const isFull = uploading.filter((one) => one === client).length >= UPLOADS_OF_CLIENT_MAX;
  return isFull ? `${UPLOADS_OF_CLIENT_MAX} files of this client` : undefined;
}

export function addImports(
  routes: Routes,
  { ledger, declared, defaultRegion, approveAboveRows }: Deps,
): void {
  const Query = createQuery(declared);
  /** The client of each upload under way. */
  const uploading: string[] = [];

  const create: Operation = {
    method: 'post',
    path: '/v2/imports',
    id: 'createImport',
    tag: 'Imports',
    summary: 'Record a file of opt-outs',
    description:
      'The body is the file: CSV with a header, or one JSON object per line. Each row is one person, with one or more of ' +
      '`email`, `phone`, `push_token` and `person_id`, and optionally `scopes` (separated by spaces or ' +
      'semicolons), `effective_at`, `reason`. If a column is unknown, the file is refused and nothing is recorded. ' +
      'The answer comes once the file is stored and counted; read at its `Location` how far it is recorded. ' +
      'The same file with the same parameters is the same import: if you are not sure, send it again. Its rows that ' +
      'were not taken are tried again only once the configuration reads rows otherwise, as a new import.',
    scopes: ['imports:write'],
    query: Query,
    file: {
      types: Object.keys(TYPES),
      description: `At most ${FILE_BYTES_MAX / 1024 ** 3} GiB, in UTF-8, not compressed. Columns: ${COLUMNS.join(', ')}.`,
    },
    answers: {
      202: { description: 'It is stored, and waits for its turn.', schema: ImportAnswer, headers: LOCATION },
      200: {
        description: 'It was sent before: the import that it began.',
        schema: ImportAnswer,
        headers: LOCATION,
      },
    },
    problems: ['malformed-file', 'budget-exhausted'],
    examples: {
      csv: {
        summary: 'Two people',
        query: { scopes: 'email' },
        headers: { 'content-type': 'text/csv' },
        body: 'email,phone\nada@example.com,+41791234567\nnot an address,\n',
        status: 202,
        answer: EXAMPLE,
      },
      again: {
        summary: 'The same file again',
        query: { scopes: 'email' },
        headers: { 'content-type': 'text/csv' },
        body: 'email,phone\nada@example.com,+41791234567\nnot an address,\n',
        status: 200,
        answer: DONE,
      },
      typo: {
        summary: 'A misspelt column is refused',
        query: { scopes: 'email' },
        headers: { 'content-type': 'text/csv' },
        body: 'email,scope\nada@example.com,sms\n',
        status: 422,
        answer: exampleProblem('invalid-value', {
          errors: [
            {
              pointer: '/columns/scope',
              detail: `is not known here: the columns are ${COLUMNS.join(', ')}, separated by commas`,
            },
          ],
        }),
      },
    },
  };

  routes.add(create, async (ctx) => {
    const query = parse(Query, { ...ctx.query });
    const format = formatOf(ctx);
    if (Number(ctx.req.headers['content-length'] ?? 0) > FILE_BYTES_MAX) throw fileTooLarge();
    const { caller, key } = authorizedOf(ctx);
    const full = fullOf(uploading, key.client);
    if (full !== undefined)
      throw new AbideError('overloaded', `${full} are being received here already.`, {
        retryAfterSeconds: 10,
      });
    uploading.push(key.client);
    try {
      const { import: made, isNew } = await receiveFile(
        ctx.req,
        {
          format,
          dryRun: query.dry_run === 'true',
          defaults: { scopes: query.scopes, reason: query.reason, effectiveAt: query.effective_at },
          readBy: { ...declared, defaultRegion },
          caller,
          lineage: key.lineage,
        },
        { ledger, approveAbove: approveAboveRows },
      );
      ctx.status = isNew ? 202 : 200;
      ctx.set('Location', `/v2/imports/${made.id}`);
      ctx.body = toAnswer(made);
    } finally {
      uploading.splice(uploading.indexOf(key.client), 1);
    }
  });

  const list: Operation = {
    method: 'get',
    path: '/v2/imports',
    id: 'listImports',
    tag: 'Imports',
    summary: 'The imports of this client',
    description: 'Newest first. A key that approves imports sees those of every client.',
    scopes: ['imports:write', 'imports:approve'],
    query: ListQuery,
    answers: { 200: { description: 'A page.', schema: ImportList, headers: LINK } },
    examples: {
      page: {
        summary: 'One that is done',
        query: { limit: '1' },
        status: 200,
        answer: { object: 'list', imports: [DONE], next_cursor: null } satisfies z.input<typeof ImportList>,
      },
    },
  };

  routes.add(list, async (ctx) => {
    const { limit, cursor, state } = parse(ListQuery, { ...ctx.query });
    const { imports, nextCursor } = await ledger.imports.list({
      client: visibleTo(ctx),
      limit,
      cursor,
      state,
    });
    linkNext(ctx, nextCursor);
    ctx.body = { object: 'list', imports: imports.map(toAnswer), next_cursor: nextCursor ?? null };
  });

  const find = async (ctx: Context, id: string): Promise<Import> => {
    const found = await ledger.imports.find(id, visibleTo(ctx));
    if (found === undefined) throw new AbideError('not-found');
    return found;
  };

  const read: Operation = {
    method: 'get',
    path: '/v2/imports/:id',
    id: 'getImport',
    tag: 'Imports',
    summary: 'How far an import is',
    description: 'Rows and counts change together: each row counts once, whatever happens meanwhile.',
    scopes: ['imports:write', 'imports:approve'],
    params: { id: Id },
    answers: { 200: { description: 'The import.', schema: ImportAnswer } },
    problems: ['not-found'],
    examples: {
      done: { summary: 'Done', path: { id: IMPORT_ID }, status: 200, answer: DONE },
      foreign: {
        summary: "Unknown, or another client's",
        path: { id: NOT_THERE },
        status: 404,
        answer: exampleProblem('not-found'),
      },
    },
  };

  routes.add(read, async (ctx) => {
    ctx.body = toAnswer(await find(ctx, String(ctx.params.id)));
  });

  const errors: Operation = {
    method: 'get',
    path: '/v2/imports/:id/errors',
    id: 'listImportErrors',
    tag: 'Imports',
    summary: 'Rows that were not taken, and why',
    description: 'Ordered by row, available while the import runs. Kept for 90 days after its end.',
    scopes: ['imports:write', 'imports:approve'],
    params: { id: Id },
    query: ErrorsQuery,
    answers: { 200: { description: 'A page.', schema: ImportErrors, headers: LINK } },
    problems: ['not-found'],
    examples: {
      page: {
        summary: 'One row',
        path: { id: IMPORT_ID },
        query: { limit: '10' },
        status: 200,
        answer: {
          object: 'list',
          errors: [{ row: 2, line: 3, column: 'email', code: 'invalid' }],
          found: 1,
          next_cursor: null,
        } satisfies z.input<typeof ImportErrors>,
      },
    },
  };

  routes.add(errors, async (ctx) => {
    const { limit, cursor } = parse(ErrorsQuery, { ...ctx.query });
    const { id, errorsFound } = await find(ctx, String(ctx.params.id));
    const { errors: found, nextCursor } = await ledger.imports.errors(id, { limit, cursor });
    linkNext(ctx, nextCursor);
    ctx.body = {
      object: 'list',
      errors: found.map(({ column, ...error }) => ({ ...error, column: column ?? null })),
      found: errorsFound,
      next_cursor: nextCursor ?? null,
    };
  });

  const approve: Operation = {
    method: 'post',
    path: '/v2/imports/:id/approval',
    id: 'approveImport',
    tag: 'Imports',
    summary: 'Approve a large import',
    description:
      'One with more rows than the configuration says (`imports.approve_above_rows`) begins only once somebody else has looked ' +
      'at it: neither the key that sent it nor one that it was rotated into can approve it.',
    scopes: ['imports:approve'],
    params: { id: Id },
    answers: { 200: { description: 'It is approved, and waits for its turn.', schema: ImportAnswer } },
    problems: ['not-found', 'second-key-needed', 'import-not-waiting'],
    examples: {
      unknown: {
        summary: 'There is none',
        path: { id: NOT_THERE },
        status: 404,
        answer: exampleProblem('not-found'),
      },
    },
  };

  routes.add(approve, async (ctx) => {
    const { caller, key } = authorizedOf(ctx);
    ctx.body = toAnswer(await ledger.imports.approve(String(ctx.params.id), caller, key.lineage));
  });

  const cancel: Operation = {
    method: 'post',
    path: '/v2/imports/:id/cancellation',
    id: 'cancelImport',
    tag: 'Imports',
    summary: 'Cancel an import that has not begun',
    description: 'What is recorded stays recorded: an import that runs goes on to its end.',
    scopes: ['imports:write', 'imports:approve'],
    params: { id: Id },
    answers: { 200: { description: 'It is cancelled, and its file is gone.', schema: ImportAnswer } },
    problems: ['not-found', 'import-not-waiting'],
    examples: {
      unknown: {
        summary: 'There is none',
        path: { id: NOT_THERE },
        status: 404,
        answer: exampleProblem('not-found'),
      },
    },
  };

  routes.add(cancel, async (ctx) => {
    const { caller } = authorizedOf(ctx);
    ctx.body = toAnswer(await ledger.imports.cancel(String(ctx.params.id), visibleTo(ctx), caller));
  });
}
