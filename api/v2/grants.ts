// The person's own later consent: the only way back, one subject per call, with evidence.
import { performance } from 'node:perf_hooks';
import { z } from 'zod';
import type { FoundGrant, Grant, RecordedGrant } from '../../ledger/contract/grants.ts';
import { AbideError } from '../../suppression/errors.ts';
import { isDeclared } from '../../suppression/scope.ts';
import type { Scope } from '../../suppression/scope.ts';
import { mask } from '../../suppression/subject.ts';
import { answerRecorded, RECORDED_HEADERS } from '../answer-recorded.ts';
import type { Deps } from '../deps.ts';
import { authorizedOf } from '../guard/authorize.ts';
import { IDEMPOTENCY_HEADER, keyInHeader } from '../guard/idempotency.ts';
import { beginWait, PREFER, PREFERENCE_APPLIED, preferredWait, waitedStillValid } from '../guard/prefer.ts';
import { parse, readJson } from '../guard/read-body.ts';
import { traceparentOf } from '../guard/trace.ts';
import { visibleClient, withItsName } from '../guard/visible.ts';
import { InstantSchema } from '../instant.ts';
import { exampleProblem, Id, Instant } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import { EvidenceAnswer, filled, Method, renderEvidence, Source, Statement } from './evidence.ts';
import { createIdentifierSchema, MaskedIdentifier } from './identifier.ts';
import { AT, propagationMember, PropagationSummary } from './opt-outs.ts';
import { createScopesSchema } from './scopes.ts';

const createSchema = (defaultRegion: string | undefined) =>
  z.strictObject({
    identifier: createIdentifierSchema(defaultRegion),
    scopes: createScopesSchema(undefined).describe(
      'What the person consents to again. Exactly these are lifted: `email` does not lift `email/newsletter`. What is no longer declared is taken if the person has refused it.',
    ),
    granted_at: InstantSchema.describe(
      'When the person consented, RFC 3339 with an offset: later than every opt-out that it lifts, and not in the future.',
    ),
    evidence: z
      .strictObject({ method: Method, statement: filled(Statement), source: filled(Source) })
      .meta({ title: 'GrantEvidence' }),
  });

const OBJECT = { object: z.literal('grant'), api_version: z.literal('v2') };
const OF_SUBJECT = {
  identifier: MaskedIdentifier,
  requested_scopes: z.array(z.string()),
  still_suppressed: z.array(z.string()).describe('What stays suppressed for this identifier.'),
};
const RECORDED = {
  id: Id,
  lifted_scopes: z.array(z.string()).describe('Those that were suppressed until then.'),
  granted_at: Instant,
  received_at: Instant,
  recorded_at: Instant,
  idempotency_key: z.string().describe('Your key, or `auto_` and the id.'),
};

const RecordedGrantAnswer = z
  .object({
    ...OBJECT,
    outcome: z
      .enum(['recorded', 'already_recorded'])
      .describe('`already_recorded`: the same consent was recorded before, and lifts nothing a second time.'),
    in_force: z.boolean().describe('Whether none of its scopes is suppressed, nor the channel of any.'),
    ...OF_SUBJECT,
    ...RECORDED,
    propagation: PropagationSummary,
  })
  .meta({ title: 'RecordedGrant' });

const NothingToGrant = z.object({ ...OBJECT, outcome: z.literal('not_suppressed'), ...OF_SUBJECT }).meta({
  title: 'NothingToGrant',
  description: 'None of these scopes was suppressed: there is nothing to lift, and nothing is recorded.',
});

const GrantAnswer = z
  .object({
    ...OBJECT,
    in_force: z.boolean().describe('Whether none of its scopes is suppressed now, nor the channel of any.'),
    ...OF_SUBJECT,
    ...RECORDED,
    evidence: EvidenceAnswer,
    propagation: PropagationSummary,
  })
  .meta({ title: 'Grant' });

const byName = (scopes: readonly Scope[]): Scope[] => [...scopes].sort();
const urlOf = (id: string): string => `/v2/grants/${id}`;

const renderGrant = (grant: Grant) => ({
  id: grant.id,
  lifted_scopes: [...grant.liftedScopes],
  granted_at: grant.grantedAt,
  received_at: grant.receivedAt,
  recorded_at: grant.recordedAt,
  idempotency_key: grant.idempotencyKey,
});

function renderRecorded(recorded: RecordedGrant, client: string): string {
  const { subject, asked, stillSuppressed } = recorded;
  const about = {
    identifier: { kind: subject.kind, masked: mask(subject) },
    requested_scopes: [...asked],
    still_suppressed: byName(stillSuppressed),
  };
  const answer: z.input<typeof RecordedGrantAnswer> | z.input<typeof NothingToGrant> =
    recorded.outcome === 'not_suppressed'
      ? { object: 'grant', api_version: 'v2', outcome: 'not_suppressed', ...about }
      : {
          object: 'grant',
          api_version: 'v2',
          outcome: recorded.outcome,
          in_force: recorded.inForce,
          ...about,
          ...renderGrant(withItsName(recorded.grant, client)),
          propagation: propagationMember(urlOf(recorded.grant.id), recorded.propagation),
        };
  return JSON.stringify(answer);
}

const renderFound = ({
  grant,
  subject,
  inForce,
  stillSuppressed,
  evidence,
  propagation,
}: FoundGrant): z.input<typeof GrantAnswer> => ({
  object: 'grant',
  api_version: 'v2',
  in_force: inForce,
  identifier: { kind: subject.kind, masked: subject.masked ?? null },
  requested_scopes: [...grant.requestedScopes],
  still_suppressed: byName(stillSuppressed),
  ...renderGrant(grant),
  evidence: renderEvidence(evidence),
  propagation: propagationMember(urlOf(grant.id), propagation),
});

const GRANT_ID = '01a21108-0c1e-7d55-9f3a-5b8b1f6f2a10';
const GRANTED_AT = '2026-11-25T17:30:00.000Z';
const EXAMPLE = {
  object: 'grant',
  api_version: 'v2',
  in_force: true,
  identifier: { kind: 'email', masked: 'a••@e••.com' },
  requested_scopes: ['email'],
  still_suppressed: ['sms'],
  id: GRANT_ID,
  lifted_scopes: ['email'],
  granted_at: GRANTED_AT,
  received_at: '2026-11-25T17:30:01.230Z',
  recorded_at: '2026-11-25T17:30:01.231Z',
  idempotency_key: 'c04e11aa',
  propagation: {
    state: 'pending',
    required: 1,
    confirmed: 0,
    verified: 0,
    uncovered: [],
    url: urlOf(GRANT_ID),
  },
} satisfies Partial<z.input<typeof RecordedGrantAnswer>>;
const EXAMPLE_BODY = {
  identifier: { email: 'ada@example.com' },
  scopes: ['email'],
  granted_at: '2026-11-25T18:30:00+01:00',
  evidence: {
    method: 'preference_center',
    statement: 'Yes, write to me by email again.',
    source: 'https://example.com/preferences',
  },
};

export function addGrants(routes: Routes, deps: Deps): void {
  const { ledger, closing } = deps;
  const GrantRequest = createSchema(deps.defaultRegion);

  const record: Operation = {
    method: 'post',
    path: '/v2/grants',
    id: 'createGrant',
    tag: 'Grants',
    summary: "Record a person's own later consent",
    description:
      'The only way back from an opt-out: the person consented again, later than they opted out, and you hold the evidence. One identifier per call. ' +
      'On a tie the opt-out stands. The same consent sent again lifts nothing a second time, whatever was opted out since. ' +
      'If none of these scopes is suppressed, the answer is 200 with `not_suppressed`, and nothing is recorded.',
    scopes: ['grants:write'],
    headers: { ...IDEMPOTENCY_HEADER, ...PREFER },
    body: GrantRequest.meta({ title: 'GrantRequest' }),
    answers: {
      201: { description: 'Recorded.', schema: RecordedGrantAnswer, headers: RECORDED_HEADERS },
      200: {
        description: 'Nothing changed: it was already so.',
        schema: z.union([RecordedGrantAnswer, NothingToGrant]),
        headers: RECORDED_HEADERS,
      },
    },
    problems: ['grant-not-later', 'idempotency-key-in-use', 'idempotency-key-reused', 'budget-exhausted'],
    examples: {
      recorded: {
        summary: 'Somebody wants email again',
        headers: { 'Idempotency-Key': 'c04e11aa' },
        body: EXAMPLE_BODY,
        status: 201,
        answer: { ...EXAMPLE, outcome: 'recorded' },
      },
      tooEarly: {
        summary: 'The opt-out came later',
        body: { ...EXAMPLE_BODY, scopes: ['sms'], granted_at: AT },
        status: 409,
        answer: exampleProblem('grant-not-later', {
          errors: [{ pointer: '/scopes/0', detail: 'was opted out at that time or later' }],
        }),
      },
      nothing: {
        summary: 'Somebody who had not opted out',
        body: { ...EXAMPLE_BODY, identifier: { email: 'grace@example.com' } },
        status: 200,
        answer: {
          object: 'grant',
          api_version: 'v2',
          outcome: 'not_suppressed',
          identifier: { kind: 'email', masked: 'g••@e••.com' },
          requested_scopes: ['email'],
          still_suppressed: [],
        },
      },
    },
  };

  routes.add(record, async (ctx) => {
    const receivedAtMs = performance.now();
    const wait = preferredWait(ctx);
    const { key, faults } = keyInHeader(ctx, undefined);
    const request = parse(GrantRequest, await readJson(ctx), faults);
    const { caller } = authorizedOf(ctx);
    const answer = await ledger.grant(
      {
        subject: request.identifier,
        scopes: request.scopes,
        undeclared: request.scopes.filter((scope) => !isDeclared(scope, deps.declared)),
        grantedAt: request.granted_at,
        evidence: request.evidence,
        idempotencyKey: key,
        apiVersion: 'v2',
        caller,
        traceparent: traceparentOf(ctx),
        receivedAtMs,
      },
      (recorded) => renderRecorded(recorded, caller.client),
    );
    const { grantId } = answer;
    if (grantId === undefined) {
      ctx.type = 'application/json';
      ctx.body = answer.body;
      return;
    }
    await answerRecorded(ctx, deps, {
      ...answer,
      id: grantId,
      location: urlOf(grantId),
      wait,
      toMember: (propagation) => propagationMember(urlOf(grantId), propagation),
    });
  });

  const read: Operation = {
    method: 'get',
    path: '/v2/grants/:id',
    id: 'getGrant',
    tag: 'Grants',
    summary: 'Read a grant',
    description:
      "With its evidence, how far it has propagated now, and whether it is still in force. Another client's is not found. `Prefer: wait=30` holds the answer until every required store has confirmed or the time is up.",
    scopes: ['opt_outs:read'],
    params: { id: Id },
    headers: PREFER,
    answers: { 200: { description: 'The grant.', schema: GrantAnswer, headers: PREFERENCE_APPLIED } },
    problems: ['not-found'],
    examples: {
      found: {
        summary: 'In force',
        path: { id: GRANT_ID },
        status: 200,
        answer: {
          ...EXAMPLE,
          evidence: EXAMPLE_BODY.evidence,
          propagation: { ...EXAMPLE.propagation, state: 'complete', confirmed: 1, verified: 1 },
        },
      },
    },
  };

  routes.add(read, async (ctx) => {
    const wait = preferredWait(ctx);
    const find = async (): Promise<FoundGrant> => {
      const found = await ledger.findGrant(ctx.params.id!, visibleClient(ctx));
      if (found === undefined) throw new AbideError('not-found');
      return found;
    };
    let found = await find();
    if (wait !== undefined && wait > 0) {
      await ledger.waitForPropagation(found.grant.id, wait * 1000, beginWait(ctx, closing));
      // The person may have opted out again meanwhile.
      found = await find();
    }
    await waitedStillValid(ctx, wait);
    ctx.body = renderFound({ ...found, grant: withItsName(found.grant, authorizedOf(ctx).key.client) });
  });
}
