// What workers say and ask, each for the one store that its key is bound to.
import { z } from 'zod';
import type { Outstanding } from '../../ledger/contract/outstanding.ts';
import {
  CARRIED_BY,
  HELD_SCOPES_MAX,
  OUTCOMES,
  REJECTIONS,
  SOURCE_STATUSES,
} from '../../suppression/acknowledgement.ts';
import type { Decision } from '../../suppression/decision.ts';
import { AbideError, CODE } from '../../suppression/errors.ts';
import { isScope } from '../../suppression/scope.ts';
import { SUBJECT_KINDS } from '../../suppression/subject-kind.ts';
import { boundedText, shortText } from '../bounded-text.ts';
import { requireSomeStore, requireStore } from '../guard/authorize.ts';
import {
  beginWait,
  goneSignal,
  PREFER,
  PREFERENCE_APPLIED,
  preferredWait,
  waitedStillValid,
} from '../guard/prefer.ts';
import { parse, queryInteger, readJson } from '../guard/read-body.ts';
import { exampleProblem, Id, Instant, StoreName } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import type { Deps } from '../deps.ts';
import { InstantSchema } from '../instant.ts';
import { OPT_OUT_ID } from './opt-outs.ts';

const BYTES_MAX = 2 * 1024 * 1024;

const TRANSPORT_KEY_ID = /^[1-9]\d{0,9}$/;

const Seq = z.int().min(1);
/** The form of what a worker calls itself, and of the other names in its reports. */
export const WORKER_NAME = /^[\x21-\x7e]{1,128}$/;
const Name = z.string().regex(WORKER_NAME, 'must be 1 to 128 visible ASCII characters');
export const Code = z.string().regex(CODE, `must match ${CODE.source}`);
export const ScopeName = z
  .string()
  .refine(isScope, 'is not a scope')
  .describe('`email`, `email/newsletter`, `analytics`.');

const Report = z
  .strictObject({
    store: shortText(63),
    generation: z.int().min(1),
    worker: z.strictObject({
      id: Name,
      incarnation: Name,
      last_error: z.strictObject({ code: Code, at: InstantSchema }).optional(),
      source: z.strictObject({
        kind: z.string().regex(/^[a-z][a-z0-9_]{0,31}$/, 'must be a short lower-case name'),
        status: z.enum(SOURCE_STATUSES),
        position: Name.optional(),
        position_age_seconds: z.number().min(0).optional(),
        parked: z.int().min(0),
      }),
    }),
    observed: z
      .strictObject({
        incarnation: boundedText(200, 'What the store says it is; null if the store is empty.')
          .min(1)
          .nullable()
          .optional(),
        canary: z.enum(['held', 'lost']).optional(),
      })
      .optional(),
    acknowledgements: z
      .array(
        z
          .strictObject({
            seq: Seq,
            version: Seq,
            subject_id: Id.optional().describe(
              'Whose decision was carried. Say it: what somebody else wrote to the topic under this number is then refused.',
            ),
            outcome: z.enum(OUTCOMES),
            held: z.strictObject({
              version: z.int().min(0).nullable(),
              suppressed: z.array(ScopeName).max(HELD_SCOPES_MAX),
            }),
            carried_by: z.enum(CARRIED_BY),
            attempts: z.int().min(1).max(1_000_000),
            asked: z
              .int()
              .min(1)
              .max(1_000_000_000)
              .optional()
              .describe('As given out with the decision; absent if it was given out with none.'),
            code: Code.optional(),
            evidence: z
              .strictObject({
                consumed_at: InstantSchema.optional(),
                applied_at: InstantSchema.optional(),
                verified_at: InstantSchema.optional(),
              })
              .default({}),
          })
          .refine(
            (one) => (one.outcome !== 'refused' && one.outcome !== 'failed') || one.code !== undefined,
            {
              message: 'is missing: refused and failed say why',
              path: ['code'],
            },
          ),
      )
      .max(1_000, 'must have at most 1,000 acknowledgements'),
  })
  .meta({ title: 'AcknowledgementReport' });

const OutstandingQuery = z.strictObject({
  after: z
    .string()
    .regex(/^(?:live:\d{1,15}|backfill:[0-9a-f-]{36})$/, 'is not a `next` that a page answered')
    .describe('`next` of the page before.')
    .optional(),
  limit: queryInteger(2_000).default(500),
  worker: Name.describe(
    "Your worker's id: the page is empty until its reports have taken the store's lease.",
  ).optional(),
  stanza: z
    .string()
    .regex(/^[0-9a-f]{64}$/, 'must be 64 lower-case hexadecimal digits')
    .describe(
      "Digest of the stanza that `abide worker` goes by: 409 if the API's abide.yaml describes the store differently.",
    )
    .optional(),
  target_since: z.literal('true').describe('Also says since when the name has meant this store.').optional(),
});

const Accepted = z
  .object({
    accepted: z.int().min(0),
    duplicate: z.int().min(0),
    rejected: z.array(z.object({ seq: Seq, code: z.enum(REJECTIONS) })),
  })
  .meta({ title: 'AcknowledgementAnswer' });

const Suppressed = z.record(z.string(), Instant).describe('Scope → since when.');
const Granted = z
  .record(z.string(), z.object({ at: Instant, version: Seq }))
  .describe("Scopes that the person's consent took away: clear them if the store holds an older version.");

const DECISION = {
  seq: Seq,
  opt_out_id: Id.nullable(),
  version: Seq.describe('Of two decisions about one subject, the higher is the newer.'),
  subject_id: Id,
  kind: z.enum(SUBJECT_KINDS),
  suppressed: Suppressed,
  granted: Granted,
  effective_at: Instant,
  recorded_at: Instant,
  sealed: z
    .string()
    .nullable()
    .describe('The address, sealed with a transport key, base64url; null once it is erased.'),
  transport_key_id: z.int().min(1).nullable(),
};

export const DecisionAnswer = z
  .object(DECISION)
  .meta({ title: 'Decision', description: "The subject's whole resulting state." });

const OutstandingAnswer = z
  .object({
    generation: z.int().min(1),
    decisions: z.array(
      z
        .object({
          ...DECISION,
          attempts: z.int().min(0),
          asked: z
            .int()
            .min(1)
            .optional()
            .describe(
              'How many times another try was asked for since the last one failed. Repeat it in the report of this try: one that was already under way does not answer the request.',
            ),
          lane: z.enum(['live', 'backfill']),
        })
        .meta({ title: 'OutstandingDecision' }),
    ),
    next: z.string().nullable(),
    paused: z.literal(true).describe('Carry nothing, wherever you learned of it.').optional(),
    unleased: z
      .literal(true)
      .describe("`worker` does not hold the store's lease and gets nothing, whatever is outstanding.")
      .optional(),
    target_since: Instant.describe(
      'Since when the store has been told of everything that it is told of now (when it was added, pointed elsewhere, widened or put in service again). An earlier grant clears nothing there if the store was told nothing else of that person. Present only if asked for.',
    ).optional(),
  })
  .meta({ title: 'OutstandingPage' });

const CanaryAnswer = z.object({ canary: DecisionAnswer.nullable() }).meta({ title: 'Canary' });

const NewestAnswer = z
  .object({
    subject_id: Id,
    seq: Seq,
    version: Seq,
    suppressed: Suppressed,
    granted: Granted,
    acknowledged_version: z
      .int()
      .min(0)
      .describe(
        'The newest that the store has acknowledged since it was last emptied, put back or pointed elsewhere; 0: none. Present only if asked for.',
      )
      .optional(),
    first_acknowledged_version: z
      .int()
      .min(0)
      .describe(
        'The oldest that it has acknowledged since it was last emptied, put back or pointed elsewhere; 0: none. Present only if asked for.',
      )
      .optional(),
  })
  .meta({ title: 'NewestDecision' });

/** Not strict: v1 answered before it had a query, whatever it was asked with. */
const NewestQuery = z.object({
  acknowledged: z
    .literal('true')
    .describe('Also says how far the store was told: do not lift again what was granted by then.')
    .optional(),
});

const TransportKeyAnswer = z
  .object({ id: z.int().min(1), key: z.string().describe('32 bytes for AES-256-GCM, base64url.') })
  .meta({ title: 'TransportKey' });

/** A decision as workers read it. */
export const renderDecision = (decision: Decision): z.input<typeof DecisionAnswer> => ({
  seq: decision.seq,
  opt_out_id: decision.optOutId ?? null,
  version: decision.version,
  subject_id: decision.subjectId,
  kind: decision.kind,
  suppressed: decision.suppressed,
  granted: decision.granted,
  effective_at: decision.effectiveAt,
  recorded_at: decision.recordedAt,
  sealed: decision.sealed ?? null,
  transport_key_id: decision.transportKeyId ?? null,
});
const render = (decision: Outstanding) => ({
  ...renderDecision(decision),
  attempts: decision.attempts,
  ...(decision.asked === 0 ? {} : { asked: decision.asked }),
  lane: decision.lane,
});

export const SUBJECT_ID = '01a21107-b4e9-77fd-a4a6-3364d00e3f38';
export const SEQ = 48211;
const AT = '2026-11-24T09:00:00.000Z';

export const EXAMPLE_DECISION: z.input<typeof DecisionAnswer> = {
  seq: SEQ,
  opt_out_id: OPT_OUT_ID,
  version: 1,
  subject_id: SUBJECT_ID,
  kind: 'email',
  suppressed: { email: AT },
  granted: {},
  effective_at: AT,
  recorded_at: '2026-11-24T09:00:00.412Z',
  sealed: 'AQAAAAGyv0bQ5k1Y0m8Qx2vWl3n7c9u1s4t6r8p0a2b4c6d8e0f1',
  transport_key_id: 1,
};

const REPORT = {
  store: 'crm',
  generation: 1,
  worker: {
    id: 'worker-1',
    incarnation: '6d1f',
    source: { kind: 'http', status: 'ok', position_age_seconds: 0.1, parked: 0 },
  },
  acknowledgements: [],
} satisfies z.input<typeof Report>;

const acknowledge: Operation = {
  method: 'post',
  path: '/v1/acknowledgements',
  id: 'acknowledge',
  tag: 'Workers',
  summary: 'What the store holds, and that its worker lives',
  description:
    'Send at most 1,000, possibly none, at least every 2 s: the report is the sign of life and renews the lease. The ledger compares what is held with what it decided; `failed` settles nothing; with the code `LIFT_NOT_UNDONE` the decision is outstanding again, though the store acknowledged it. Repeats are harmless.',
  scopes: ['acknowledgements:write'],
  body: Report,
  answers: { 200: { description: 'What was accepted, what was not, and why.', schema: Accepted } },
  problems: ['not-found'],
  examples: {
    alive: {
      summary: 'A sign of life',
      body: REPORT,
      status: 200,
      answer: { accepted: 0, duplicate: 0, rejected: [] } satisfies z.input<typeof Accepted>,
    },
    verified: {
      summary: 'One that was applied and read back, and one that is unknown',
      body: {
        ...REPORT,
        acknowledgements: [
          {
            seq: SEQ,
            version: 1,
            subject_id: SUBJECT_ID,
            outcome: 'verified',
            held: { version: 1, suppressed: ['email'] },
            carried_by: 'stream',
            attempts: 1,
            evidence: { applied_at: '2026-11-24T09:00:00.419Z', verified_at: '2026-11-24T09:00:00.422Z' },
          },
          {
            seq: 9_000_000_000,
            version: 1,
            outcome: 'failed',
            held: { version: null, suppressed: [] },
            carried_by: 'retry',
            attempts: 4,
            code: 'STORE_TIMEOUT',
          },
        ],
      } satisfies z.input<typeof Report>,
      status: 200,
      answer: {
        accepted: 1,
        duplicate: 0,
        rejected: [{ seq: 9_000_000_000, code: 'unknown_seq' }],
      } satisfies z.input<typeof Accepted>,
    },
  },
};

const outstanding: Operation = {
  method: 'get',
  path: '/v1/stores/:name/outstanding',
  id: 'listOutstanding',
  tag: 'Workers',
  summary: 'What the store must hold and has not confirmed',
  description:
    'What can be carried now, live decisions first. `Prefer: wait=30` holds an empty answer until something is due.',
  scopes: ['acknowledgements:write'],
  params: { name: StoreName },
  query: OutstandingQuery,
  headers: PREFER,
  answers: { 200: { description: 'A page.', schema: OutstandingAnswer, headers: PREFERENCE_APPLIED } },
  problems: ['not-found', 'another-stanza'],
  examples: {
    page: {
      summary: 'One opt-out',
      path: { name: 'crm' },
      query: { limit: '500' },
      status: 200,
      answer: {
        generation: 1,
        decisions: [{ ...EXAMPLE_DECISION, attempts: 0, lane: 'live' }],
        next: null,
      } satisfies z.input<typeof OutstandingAnswer>,
    },
    foreign: {
      summary: "Another worker's store",
      path: { name: 'mail' },
      status: 404,
      answer: exampleProblem('not-found', { detail: 'The key is not bound to this store.' }),
    },
  },
};

const canary: Operation = {
  method: 'get',
  path: '/v1/stores/:name/canary',
  id: 'getCanary',
  tag: 'Workers',
  summary: 'The canary that the store acknowledged last',
  description:
    'A synthetic opt-out. A store that no longer holds it is no longer the store that it was. Null: there is none.',
  scopes: ['acknowledgements:write'],
  params: { name: StoreName },
  answers: { 200: { description: 'The canary.', schema: CanaryAnswer } },
  problems: ['not-found'],
  examples: {
    none: {
      summary: 'None yet',
      path: { name: 'crm' },
      status: 200,
      answer: { canary: null } satisfies z.input<typeof CanaryAnswer>,
    },
  },
};

const newest: Operation = {
  method: 'get',
  path: '/v1/stores/:name/subjects/:subject_id',
  id: 'getNewestDecision',
  tag: 'Workers',
  summary: 'What is decided about one subject now',
  description:
    'Ask this before and after you tell a store without versions to lift something: is the decision still the newest, and was the store told before?',
  scopes: ['acknowledgements:write'],
  params: { name: StoreName, subject_id: Id },
  query: NewestQuery,
  answers: { 200: { description: 'The newest decision.', schema: NewestAnswer } },
  problems: ['not-found'],
  examples: {
    newest: {
      summary: 'Suppressed',
      path: { name: 'crm', subject_id: SUBJECT_ID },
      query: { acknowledged: 'true' },
      status: 200,
      answer: {
        subject_id: SUBJECT_ID,
        seq: SEQ,
        version: 1,
        suppressed: { email: AT },
        granted: {},
        acknowledged_version: 1,
        first_acknowledged_version: 1,
      } satisfies z.input<typeof NewestAnswer>,
    },
  },
};

const transportKey: Operation = {
  method: 'get',
  path: '/v1/transport-keys/:id',
  id: 'getTransportKey',
  tag: 'Workers',
  summary: 'The key that opens sealed addresses',
  description:
    'Keep it in memory only. A key is destroyed once nothing under it is outstanding and 35 days have passed.',
  scopes: ['acknowledgements:write'],
  params: { id: z.int().min(1) },
  answers: {
    200: { description: 'The key. Nothing on the way may cache it.', schema: TransportKeyAnswer },
  },
  problems: ['not-found'],
  examples: {
    key: {
      summary: 'A living key',
      path: { id: '1' },
      status: 200,
      answer: {
        id: 1,
        key: 'BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc',
      } satisfies z.input<typeof TransportKeyAnswer>,
    },
  },
};

export function addAcknowledgements(routes: Routes, { ledger, closing }: Deps): void {
  routes.add(acknowledge, async (ctx) => {
    const report = parse(Report, await readJson(ctx, BYTES_MAX));
    requireStore(ctx, report.store);
    const { worker } = report;
    ctx.body = await ledger.acknowledge(report.store, {
      generation: report.generation,
      worker: {
        id: worker.id,
        incarnation: worker.incarnation,
        lastError: worker.last_error,
        source: {
          kind: worker.source.kind,
          status: worker.source.status,
          position: worker.source.position,
          positionAgeSeconds: worker.source.position_age_seconds,
          parked: worker.source.parked,
        },
      },
      observed: report.observed && {
        incarnation: report.observed.incarnation,
        canary: report.observed.canary,
      },
      acknowledgements: report.acknowledgements.map((one) => ({
        seq: one.seq,
        version: one.version,
        subjectId: one.subject_id,
        outcome: one.outcome,
        held: { version: one.held.version ?? undefined, suppressed: one.held.suppressed },
        carriedBy: one.carried_by,
        attempts: one.attempts,
        asked: one.asked,
        code: one.code,
        evidence: {
          consumedAt: one.evidence.consumed_at,
          appliedAt: one.evidence.applied_at,
          verifiedAt: one.evidence.verified_at,
        },
      })),
    });
  });

  routes.add(outstanding, async (ctx) => {
    const query = parse(OutstandingQuery, { ...ctx.query });
    const name = ctx.params.name!;
    requireStore(ctx, name);
    const wait = preferredWait(ctx);
    const waitMs = (wait ?? 0) * 1000;
    const page = await ledger.outstanding(name, {
      after: query.after,
      limit: query.limit,
      waitMs,
      worker: query.worker,
      stanza: query.stanza === undefined ? undefined : Buffer.from(query.stanza, 'hex'),
      signal: waitMs > 0 ? beginWait(ctx, closing, 'worker_waits') : goneSignal(ctx, closing),
    });
    if (page === undefined) throw new AbideError('not-found', 'The store is not registered.');
    await waitedStillValid(ctx, wait);
    ctx.body = {
      generation: page.generation,
      decisions: page.decisions.map(render),
      next: page.next ?? null,
      ...(page.paused === undefined ? {} : { paused: page.paused }),
      ...(page.unleased === undefined ? {} : { unleased: page.unleased }),
      ...(query.target_since === undefined ? {} : { target_since: page.targetSince }),
    };
  });

  routes.add(canary, async (ctx) => {
    requireStore(ctx, ctx.params.name!);
    const held = await ledger.canary(ctx.params.name!);
    ctx.body = { canary: held === undefined ? null : renderDecision(held) };
  });

  routes.add(newest, async (ctx) => {
    requireStore(ctx, ctx.params.name!);
    const { acknowledged } = parse(NewestQuery, { ...ctx.query });
    const decided = await ledger.newest(ctx.params.name!, ctx.params.subject_id!);
    if (decided === undefined) throw new AbideError('not-found');
    const { subjectId, seq, version, suppressed, granted } = decided;
    ctx.body = {
      subject_id: subjectId,
      ...{ seq, version, suppressed, granted },
      ...(acknowledged === undefined
        ? {}
        : {
            acknowledged_version: decided.acknowledgedVersion,
            first_acknowledged_version: decided.firstAcknowledgedVersion,
          }),
    };
  });

  routes.add(transportKey, async (ctx) => {
    requireSomeStore(ctx);
    const text = ctx.params.id!;
    const id = Number(text);
    const key = TRANSPORT_KEY_ID.test(text) ? await ledger.transportKey(id) : undefined;
    if (key === undefined)
      throw new AbideError('not-found', 'There is no such transport key, or it is destroyed.');
    ctx.body = { id, key: key.toString('base64url') };
  });
}
