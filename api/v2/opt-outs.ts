import { performance } from 'node:perf_hooks';
import { z } from 'zod';
import { REASONS, REGIMES } from '../../ledger/contract/opt-outs.ts';
import type { FoundOptOut, Recorded } from '../../ledger/contract/opt-outs.ts';
import type { Propagation } from '../../ledger/contract/propagation.ts';
import { AbideError } from '../../suppression/errors.ts';
import { CHANNELS, coveredBy } from '../../suppression/scope.ts';
import type { Scope } from '../../suppression/scope.ts';
import { mask } from '../../suppression/subject.ts';
import type { SubjectKind } from '../../suppression/subject-kind.ts';
import { answerRecorded, RECORDED_HEADERS, unreachedWarnings } from '../answer-recorded.ts';
import { boundedText } from '../bounded-text.ts';
import type { Deps } from '../deps.ts';
import { authorizedOf } from '../guard/authorize.ts';
import { IDEMPOTENCY_HEADER, keyInHeader } from '../guard/idempotency.ts';
import { PREFER, preferredWait } from '../guard/prefer.ts';
import { parse, readJson } from '../guard/read-body.ts';
import { traceparentOf } from '../guard/trace.ts';
import { findVisible, shownTo, visibleClient } from '../guard/visible.ts';
import { InstantSchema } from '../instant.ts';
import { LINK, linkNext, OptOutListQuery } from '../list.ts';
import { exampleProblem, Id, Instant } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import { PROPAGATION_COUNTS } from '../propagation-shape.ts';
import { EvidenceAnswer, Method, renderEvidence, Source, Statement } from './evidence.ts';
import { createIdentifiersSchema, IdentifierState, suppressedOf } from './identifier.ts';
import { createScopesSchema, NOT_DECLARED } from './scopes.ts';

const NOTE_CHARACTERS_MAX = 500;
const NO_SUCH_STORE = { pointer: '/store', detail: 'is not the name of a store' };

const createSchema = ({ defaultRegion, declared }: Pick<Deps, 'defaultRegion' | 'declared'>) =>
  z.strictObject({
    identifiers: createIdentifiersSchema(defaultRegion).describe(
      'Every identifier of the person that you hold. They make one opt-out, with one decision for each.',
    ),
    scopes: createScopesSchema(declared).describe('What the person refuses.'),
    effective_at: InstantSchema.describe(
      'Since when, RFC 3339 with an offset; absent: the time of receipt. May be in the past. A time up to an hour ahead is taken as the time of receipt, and `adjustments` says so; one further ahead is refused.',
    ).optional(),
    reason: z.enum(REASONS).default('person_request'),
    regimes: z
      .array(z.enum(REGIMES))
      .max(REGIMES.length, `must have at most ${REGIMES.length}`)
      .transform((regimes) => [...new Set(regimes)])
      .describe('The laws under which the person opts out, as far as you know: for your own records.')
      .optional(),
    evidence: z
      .strictObject({ method: Method, statement: Statement.optional(), source: Source.optional() })
      .meta({ title: 'OptOutEvidence' })
      .optional(),
    note: boundedText(
      NOTE_CHARACTERS_MAX,
      'Kept sealed, and in no answer. No control characters except tabs and line ends.',
    ).optional(),
  });

const Warning = z
  .object({
    code: z.literal('channel_needs_other_identifier'),
    scope: z.enum(CHANNELS),
    detail: z.string(),
  })
  .meta({
    title: 'Warning',
    description: 'None of these identifiers reaches the channel: opt out another one as well.',
  });

export const UncoveredScopes = z
  .array(z.string())
  .describe('Scopes that no required store covers for any of these identifiers.');

export const PropagationSummary = z
  .object({
    ...PROPAGATION_COUNTS,
    uncovered: UncoveredScopes,
    url: z.string().describe('Where to read it store by store.'),
  })
  .meta({ title: 'PropagationSummary' });

const ABOUT = {
  identifiers: z.array(IdentifierState).describe('In the order of the request.'),
  requested_scopes: z.array(z.string()).describe('What was asked for.'),
  reason: z.enum(REASONS),
  regimes: z.array(z.enum(REGIMES)),
  effective_at: Instant,
  received_at: Instant,
  recorded_at: Instant,
  idempotency_key: z.string().describe('Your key, or `auto_` and the id.'),
};
const OBJECT = { object: z.literal('opt_out'), api_version: z.literal('v2'), id: Id };

const RecordedOptOut = z
  .object({
    ...OBJECT,
    outcome: z
      .enum(['recorded', 'already_opted_out', 'already_recorded'])
      .describe(
        '`already_opted_out`: nothing would change; this is the opt-out that covers the request. `already_recorded`: the same opt-out was recorded before a later grant, and changes nothing; `in_force` says whether its scopes are suppressed all the same.',
      ),
    in_force: z.boolean(),
    ...ABOUT,
    adjustments: z
      .array(
        z
          .object({ code: z.literal('effective_at_in_future'), pointer: z.string(), detail: z.string() })
          .meta({ title: 'Adjustment' }),
      )
      .describe('What was taken differently from how it was stated.'),
    warnings: z.array(Warning),
    propagation: PropagationSummary,
  })
  .meta({ title: 'RecordedOptOut' });

export const OptOutAnswer = z
  .object({
    ...OBJECT,
    in_force: z
      .boolean()
      .describe(
        'Whether every scope that was asked for is still suppressed, by itself or with its channel, for every identifier.',
      ),
    ...ABOUT,
    evidence: EvidenceAnswer.nullable().describe(
      'Also null if another client gave it, unless the key has `opt_outs:read_all`.',
    ),
    warnings: z.array(Warning),
    propagation: PropagationSummary,
  })
  .meta({ title: 'OptOut' });

const OptOutList = z
  .object({
    object: z.literal('list'),
    opt_outs: z.array(OptOutAnswer).describe('Newest first.'),
    next_cursor: z.string().nullable().describe('For `cursor`; null on the last page.'),
  })
  .meta({ title: 'OptOutList' });

export const propagationMember = (
  url: string,
  { state, required, confirmed, verified, uncovered }: Propagation,
): z.input<typeof PropagationSummary> => ({
  state,
  required,
  confirmed,
  verified,
  uncovered: [...uncovered],
  url,
});

const urlOf = (id: string): string => `/v2/opt-outs/${id}/propagation`;

const warningsOf = (kinds: readonly SubjectKind[], asked: readonly Scope[]): z.input<typeof Warning>[] =>
  unreachedWarnings(kinds, asked).map(({ code, channel, detail }) => ({ code, scope: channel, detail }));

function renderRecorded(recorded: Recorded): string {
  const { optOut, subjects, asked } = recorded;
  const answer: z.input<typeof RecordedOptOut> = {
    object: 'opt_out',
    api_version: 'v2',
    id: optOut.id,
    outcome: recorded.outcome,
    in_force: subjects.every(({ state }) =>
      asked.every((scope) => coveredBy(state.suppressed, scope) !== undefined),
    ),
    identifiers: subjects.map(({ subject, state }) => ({
      kind: subject.kind,
      masked: mask(subject),
      suppressed: suppressedOf(state),
    })),
    requested_scopes: [...asked],
    reason: optOut.reason,
    regimes: [...optOut.regimes],
    effective_at: optOut.effectiveAt,
    received_at: optOut.receivedAt,
    recorded_at: optOut.recordedAt,
    idempotency_key: recorded.idempotencyKey,
    adjustments: recorded.effectiveAtAdjusted
      ? [
          {
            code: 'effective_at_in_future',
            pointer: '/effective_at',
            detail: 'The date lay ahead and was taken as the time of receipt.',
          },
        ]
      : [],
    warnings: warningsOf(
      subjects.map(({ subject }) => subject.kind),
      asked,
    ),
    propagation: propagationMember(urlOf(optOut.id), recorded.propagation),
  };
  return JSON.stringify(answer);
}

export const renderFound = ({
  optOut,
  subjects,
  inForce,
  evidence,
  propagation,
}: FoundOptOut): z.input<typeof OptOutAnswer> => ({
  object: 'opt_out',
  api_version: 'v2',
  id: optOut.id,
  in_force: inForce,
  identifiers: subjects.map(({ kind, masked, state }) => ({
    kind,
    masked: masked ?? null,
    suppressed: suppressedOf(state),
  })),
  requested_scopes: [...optOut.requestedScopes],
  reason: optOut.reason,
  regimes: [...optOut.regimes],
  effective_at: optOut.effectiveAt,
  received_at: optOut.receivedAt,
  recorded_at: optOut.recordedAt,
  idempotency_key: optOut.idempotencyKey,
  evidence: evidence === undefined ? null : renderEvidence(evidence),
  warnings: warningsOf(
    subjects.map(({ kind }) => kind),
    optOut.requestedScopes,
  ),
  propagation: propagationMember(urlOf(optOut.id), propagation),
});

export const OPT_OUT_ID = '01a21107-b4e9-77fd-a4a6-3364d00e3f37';
export const AT = '2026-11-24T09:00:00.000Z';
export const RECORDED_AT = '2026-11-24T09:00:00.412Z';

const SUPPRESSED = [
  { scope: 'email', since: AT, opt_out_id: OPT_OUT_ID },
  { scope: 'sms', since: AT, opt_out_id: OPT_OUT_ID },
];

const EXAMPLE = {
  object: 'opt_out',
  api_version: 'v2',
  id: OPT_OUT_ID,
  in_force: true,
  identifiers: [
    { kind: 'email', masked: 'a••@e••.com', suppressed: SUPPRESSED },
    { kind: 'phone', masked: '+41••67', suppressed: SUPPRESSED },
  ],
  requested_scopes: ['email', 'sms'],
  reason: 'person_request',
  regimes: ['gdpr'],
  effective_at: AT,
  received_at: RECORDED_AT,
  recorded_at: RECORDED_AT,
  idempotency_key: '7f9c2b1e',
  warnings: [],
  propagation: {
    state: 'pending',
    required: 1,
    confirmed: 0,
    verified: 0,
    uncovered: [],
    url: urlOf(OPT_OUT_ID),
  },
} satisfies Partial<z.input<typeof OptOutAnswer>>;

export const EXAMPLE_FOUND = {
  ...EXAMPLE,
  evidence: { method: 'phone', statement: 'stop all of it', source: null },
  propagation: { ...EXAMPLE.propagation, state: 'complete', confirmed: 1, verified: 1 },
} satisfies z.input<typeof OptOutAnswer>;

export function addOptOuts(routes: Routes, deps: Deps): void {
  const { ledger } = deps;
  const OptOutRequest = createSchema(deps);

  const record: Operation = {
    method: 'post',
    path: '/v2/opt-outs',
    id: 'createOptOut',
    tag: 'Opt-outs',
    summary: 'Record an opt-out',
    description:
      'Records what a person refuses, for every identifier of theirs that you name. The 2xx is sent once it is durable; no call takes it back except a later consent of the person (`POST /v2/grants`). ' +
      'Repeat it with the same key until there is an answer: the same key and the same intent get the first answer again, even if v1 gave it. ' +
      'The same opt-out under another key or none gets a 200 and records nothing new, unless the address was erased since.',
    scopes: ['opt_outs:write'],
    headers: { ...IDEMPOTENCY_HEADER, ...PREFER },
    body: OptOutRequest.meta({ title: 'OptOutRequest' }),
    answers: {
      201: { description: 'Recorded.', schema: RecordedOptOut, headers: RECORDED_HEADERS },
      200: {
        description: 'The person had already opted out: the opt-out that says so.',
        schema: RecordedOptOut,
        headers: RECORDED_HEADERS,
      },
    },
    problems: ['idempotency-key-in-use', 'idempotency-key-reused', 'budget-exhausted'],
    examples: {
      recorded: {
        summary: 'One person, two identifiers, two channels',
        headers: { 'Idempotency-Key': '7f9c2b1e' },
        body: {
          identifiers: [{ email: 'Ada@Example.com' }, { phone: '+41791234567' }],
          scopes: ['email', 'sms'],
          effective_at: '2026-11-24T10:00:00+01:00',
          regimes: ['gdpr'],
          evidence: { method: 'phone', statement: 'stop all of it' },
        },
        status: 201,
        answer: { ...EXAMPLE, outcome: 'recorded', adjustments: [] },
      },
      repeated: {
        summary: 'A part of it without a key: it is covered',
        body: {
          identifiers: [{ email: 'ada@example.com' }],
          scopes: ['email'],
          effective_at: '2026-11-24T10:00:00+01:00',
        },
        status: 200,
        answer: {
          ...EXAMPLE,
          outcome: 'already_opted_out',
          identifiers: EXAMPLE.identifiers.slice(0, 1),
          requested_scopes: ['email'],
          idempotency_key: `auto_${OPT_OUT_ID}`,
          adjustments: [],
        },
      },
      undeclared: {
        summary: 'A topic that the configuration does not declare',
        body: { identifiers: [{ email: 'ada@example.com' }], scopes: ['email/newsleter'] },
        status: 422,
        answer: exampleProblem('invalid-value', {
          errors: [{ pointer: '/scopes/0', detail: NOT_DECLARED }],
        }),
      },
    },
  };

  routes.add(record, async (ctx) => {
    const receivedAtMs = performance.now();
    const wait = preferredWait(ctx);
    const { key, faults } = keyInHeader(ctx, undefined);
    const request = parse(OptOutRequest, await readJson(ctx), faults);
    const answer = await ledger.record(
      {
        subjects: request.identifiers,
        scopes: request.scopes,
        effectiveAt: request.effective_at,
        reason: request.reason,
        note: request.note,
        regimes: request.regimes ?? [],
        evidence: request.evidence,
        idempotencyKey: key,
        apiVersion: 'v2',
        caller: authorizedOf(ctx).caller,
        traceparent: traceparentOf(ctx),
        receivedAtMs,
      },
      renderRecorded,
    );
    await answerRecorded(ctx, deps, {
      ...answer,
      id: answer.optOutId,
      location: `/v2/opt-outs/${answer.optOutId}`,
      wait,
      toMember: (propagation) => propagationMember(urlOf(answer.optOutId), propagation),
    });
  });

  const list: Operation = {
    method: 'get',
    path: '/v2/opt-outs',
    id: 'listOptOuts',
    tag: 'Opt-outs',
    summary: 'List opt-outs',
    description:
      "Your own client's opt-outs, whichever version recorded them, newest first; with the scope `opt_outs:read_all`, those of every client. The next page is in `Link` and in `next_cursor`.",
    scopes: ['opt_outs:read'],
    query: OptOutListQuery,
    answers: { 200: { description: 'A page.', schema: OptOutList, headers: LINK } },
    examples: {
      page: {
        summary: 'What people asked for themselves this month',
        query: { limit: '20', since: '2026-11-01T00:00:00Z', reason: 'person_request' },
        status: 200,
        answer: { object: 'list', opt_outs: [EXAMPLE_FOUND], next_cursor: null },
      },
      typo: {
        summary: 'A misspelt store is refused: an empty list would say that it must hold nothing',
        query: { store: 'cmr', state: 'pending' },
        status: 422,
        answer: exampleProblem('invalid-value', { errors: [NO_SUCH_STORE] }),
      },
    },
  };

  routes.add(list, async (ctx) => {
    const query = parse(OptOutListQuery, { ...ctx.query });
    const found = await ledger.listOptOuts({ ...query, client: visibleClient(ctx) });
    if (found === undefined) throw new AbideError('invalid-value', undefined, { errors: [NO_SUCH_STORE] });
    const { optOuts, nextCursor } = found;
    linkNext(ctx, nextCursor);
    const answer: z.input<typeof OptOutList> = {
      object: 'list',
      opt_outs: optOuts.map((found) => renderFound(shownTo(ctx, found))),
      next_cursor: nextCursor ?? null,
    };
    ctx.body = answer;
  });

  const read: Operation = {
    method: 'get',
    path: '/v2/opt-outs/:id',
    id: 'getOptOut',
    tag: 'Opt-outs',
    summary: 'Read an opt-out',
    description:
      "As it was recorded, whichever version recorded it, with how far it has propagated now and whether it is still in force. Another client's is not found.",
    scopes: ['opt_outs:read'],
    params: { id: Id },
    answers: { 200: { description: 'The opt-out.', schema: OptOutAnswer } },
    problems: ['not-found'],
    examples: {
      found: { summary: 'In force', path: { id: OPT_OUT_ID }, status: 200, answer: EXAMPLE_FOUND },
      foreign: {
        summary: "Unknown, or another client's",
        path: { id: '00000000-0000-7000-8000-000000000000' },
        status: 404,
        answer: exampleProblem('not-found'),
      },
    },
  };

  routes.add(read, async (ctx) => {
    ctx.body = renderFound(shownTo(ctx, await findVisible(ctx, ledger, ctx.params.id!)));
  });
}
