// What a store keeps failing, for operators to see and to have tried again at once. No call takes anything out.
import { z } from 'zod';
import { PARKED_KINDS } from '../../ledger/contract/quarantine.ts';
import type { Parked, ParkedInFull } from '../../ledger/contract/quarantine.ts';
import { AbideError } from '../../suppression/errors.ts';
import { authorizedOf } from '../guard/authorize.ts';
import { parse, queryInteger, readJson } from '../guard/read-body.ts';
import { exampleProblem, Id, Instant, StoreName } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import { SUBJECT_KINDS } from '../../suppression/subject-kind.ts';
import { Code, SEQ as EXAMPLE_SEQ, SUBJECT_ID } from './acknowledgements.ts';
import type { Deps } from '../deps.ts';
import { CURSOR, LINK, linkNext } from '../list.ts';
import { OPT_OUT_ID } from './opt-outs.ts';

const ListQuery = z.strictObject({
  limit: queryInteger(500).default(100),
  cursor: CURSOR,
  kind: z
    .enum(PARKED_KINDS)
    .describe('`absent`: the store does not know the person, or the address was erased before it was told.')
    .optional(),
  code: Code.describe('Those that the store fails with this code.').optional(),
});

const Retry = z
  .strictObject({ seq: z.int().min(1).optional(), code: Code.optional(), all: z.literal(true).optional() })
  .meta({
    title: 'RetryRequest',
    description: 'Exactly one of these: a number, all with a code, or everything.',
    minProperties: 1,
    maxProperties: 1,
  })
  .transform((given, context) => {
    const { seq, code, all } = given;
    if (Object.values(given).filter((one) => one !== undefined).length === 1) {
      if (seq !== undefined) return { seq };
      if (code !== undefined) return { code };
      if (all !== undefined) return { all };
    }
    context.addIssue({ code: 'custom', message: 'must have exactly one of seq, code, all' });
    return z.NEVER;
  });

const SEQ = /^[1-9]\d{0,14}$/;

const PARKED = {
  store: z.string(),
  seq: z.int().min(1),
  opt_out_id: Id.nullable(),
  subject_id: Id,
  subject_kind: z.enum(SUBJECT_KINDS),
  version: z.int().min(1),
  kind: z.enum(PARKED_KINDS),
  code: z.string().nullable(),
  attempts: z.int().min(0),
  recorded_at: Instant,
  age_seconds: z.number().min(0).describe('Of the oldest decision that it speaks for, as the lag counts it.'),
  since: Instant,
  next_try_at: Instant,
};
const ParkedAnswer = z.object(PARKED).meta({ title: 'Parked' });
const ParkedList = z
  .object({
    object: z.literal('list'),
    quarantine: z.array(ParkedAnswer).describe('Oldest first.'),
    next_cursor: z.string().nullable(),
  })
  .meta({ title: 'ParkedList' });
const ParkedInFullAnswer = z
  .object({
    ...PARKED,
    generation: z.int().min(1),
    speaks_from: z
      .int()
      .min(1)
      .describe('It speaks for every unsettled decision of its subject from this number to its own.'),
    newest_version: z
      .int()
      .min(1)
      .describe("The subject's version now. If the store takes a newer one, that settles this as well."),
    last_evidence: z
      .object({
        seq: z.int().min(1),
        version: z.int().min(1),
        outcome: z.string(),
        held: z.object({ version: z.int().min(0).nullable(), suppressed: z.array(z.string()) }),
        acknowledged_at: Instant,
        worker: z.string(),
      })
      .nullable()
      .describe('What the store last proved about this subject.'),
  })
  .meta({ title: 'ParkedInFull' });
const Retried = z.object({ retried: z.int().min(0) }).meta({ title: 'RetryAnswer' });

const EXAMPLE: z.input<typeof ParkedAnswer> = {
  store: 'crm',
  seq: EXAMPLE_SEQ,
  opt_out_id: OPT_OUT_ID,
  subject_id: SUBJECT_ID,
  subject_kind: 'email',
  version: 1,
  kind: 'quarantine',
  code: 'TOO_LONG',
  attempts: 6,
  recorded_at: '2026-11-24T09:00:00.412Z',
  age_seconds: 31.2,
  since: '2026-11-24T09:00:30.000Z',
  next_try_at: '2026-11-24T09:05:30.000Z',
};

const list: Operation = {
  method: 'get',
  path: '/v1/stores/:name/quarantine',
  id: 'listQuarantine',
  tag: 'Operations',
  summary: 'What a store keeps failing',
  description: 'Parked, counted in the lag, and tried again for ever: no call takes anything out.',
  scopes: ['lag:read'],
  params: { name: StoreName },
  query: ListQuery,
  answers: { 200: { description: 'A page.', schema: ParkedList, headers: LINK } },
  problems: ['not-found'],
  examples: {
    page: {
      summary: 'Everything with one code',
      path: { name: 'crm' },
      query: { code: 'TOO_LONG' },
      status: 200,
      answer: { object: 'list', quarantine: [EXAMPLE], next_cursor: null } satisfies z.input<
        typeof ParkedList
      >,
    },
  },
};

const show: Operation = {
  method: 'get',
  path: '/v1/stores/:name/quarantine/:seq',
  id: 'getQuarantined',
  tag: 'Operations',
  summary: 'Everything known about one parked decision',
  description: 'With what the store last proved about this subject.',
  scopes: ['lag:read'],
  params: { name: StoreName, seq: z.int().min(1) },
  answers: { 200: { description: 'What is parked.', schema: ParkedInFullAnswer } },
  problems: ['not-found'],
  examples: {
    parked: {
      summary: 'Never held',
      path: { name: 'crm', seq: String(EXAMPLE_SEQ) },
      status: 200,
      answer: {
        ...EXAMPLE,
        generation: 1,
        speaks_from: EXAMPLE_SEQ,
        newest_version: 1,
        last_evidence: null,
      } satisfies z.input<typeof ParkedInFullAnswer>,
    },
    none: {
      summary: 'Nothing there',
      path: { name: 'crm', seq: '9000000000' },
      status: 404,
      answer: exampleProblem('not-found', { detail: 'The store has no parked decision with this number.' }),
    },
  },
};

const retry: Operation = {
  method: 'post',
  path: '/v1/stores/:name/quarantine/retry',
  id: 'retryQuarantined',
  tag: 'Operations',
  summary: 'Have it tried again now',
  description: 'Within about a second, whenever their own next try would be.',
  scopes: ['stores:write'],
  params: { name: StoreName },
  body: Retry,
  answers: { 200: { description: 'How many will be tried again.', schema: Retried } },
  problems: ['not-found'],
  examples: {
    code: {
      summary: 'All with one code',
      path: { name: 'crm' },
      body: { code: 'TOO_LONG' },
      status: 200,
      answer: { retried: 1 } satisfies z.input<typeof Retried>,
    },
    two: {
      summary: 'Exactly one of the three',
      path: { name: 'crm' },
      body: { code: 'TOO_LONG', all: true },
      status: 422,
      answer: exampleProblem('invalid-value', {
        errors: [{ pointer: '', detail: 'must have exactly one of seq, code, all' }],
      }),
    },
  },
};

const render = (parked: Parked): z.input<typeof ParkedAnswer> => ({
  store: parked.store,
  seq: parked.seq,
  opt_out_id: parked.optOutId ?? null,
  subject_id: parked.subjectId,
  subject_kind: parked.subjectKind,
  version: parked.version,
  kind: parked.kind,
  code: parked.code ?? null,
  attempts: parked.attempts,
  recorded_at: parked.recordedAt,
  age_seconds: parked.ageSeconds,
  since: parked.since,
  next_try_at: parked.nextTryAt,
});

const renderInFull = (parked: ParkedInFull): z.input<typeof ParkedInFullAnswer> => {
  const last = parked.lastEvidence;
  return {
    ...render(parked),
    generation: parked.generation,
    speaks_from: parked.speaksFrom,
    newest_version: parked.newestVersion,
    last_evidence:
      last === undefined
        ? null
        : {
            seq: last.seq,
            version: last.version,
            outcome: last.outcome,
            held: { version: last.held.version ?? null, suppressed: [...last.held.suppressed] },
            acknowledged_at: last.acknowledgedAt,
            worker: last.worker,
          },
  };
};

const noStore = (): AbideError => new AbideError('not-found', 'No store of this name is in service.');

export function addQuarantine(routes: Routes, { ledger }: Deps): void {
  routes.add(list, async (ctx) => {
    const query = parse(ListQuery, { ...ctx.query });
    const page = await ledger.listParked(ctx.params.name!, {
      limit: query.limit,
      cursor: query.cursor,
      kind: query.kind,
      code: query.code,
    });
    if (page === undefined) throw noStore();
    linkNext(ctx, page.nextCursor);
    ctx.body = {
      object: 'list',
      quarantine: page.parked.map(render),
      next_cursor: page.nextCursor ?? null,
    };
  });

  routes.add(show, async (ctx) => {
    const seq = ctx.params.seq!;
    const parked = SEQ.test(seq) ? await ledger.findParked(ctx.params.name!, Number(seq)) : undefined;
    if (parked === undefined)
      throw new AbideError('not-found', 'The store has no parked decision with this number.');
    ctx.body = renderInFull(parked);
  });

  routes.add(retry, async (ctx) => {
    const which = parse(Retry, await readJson(ctx));
    const retried = await ledger.retryParked(ctx.params.name!, which, authorizedOf(ctx).caller);
    if (retried === undefined) throw noStore();
    ctx.body = { retried };
  });
}
