// A ledger in memory that answers what a test gives it: only for what is HTTP. What the ledger decides is tested with
// the real one, in test/ledger and test/pipeline.
import { randomUUIDv7 } from 'node:crypto';
import type { ApiKey } from '../../ledger/contract/api-keys.ts';
import type { Ledger } from '../../ledger/contract/ledger.ts';
import type { FoundOptOut, OptOutIntent, RecordAnswer, Recorded } from '../../ledger/contract/opt-outs.ts';
import type { LagReport } from '../../ledger/contract/propagation-lag.ts';
import type { Propagation } from '../../ledger/contract/propagation.ts';
import type { Parked } from '../../ledger/contract/quarantine.ts';
import type { Use } from '../../ledger/contract/usage.ts';
import { judgeGate } from '../../ledger/gate.ts';
import type { SubjectState } from '../../suppression/decision.ts';
import { Address } from '../../suppression/subject.ts';

export const AT = '2026-11-24T09:00:00.000Z';
export const ID = '0199aaaa-0000-7000-8000-000000000001';
export const SUBJECT_ID = '0199bbbb-0000-7000-8000-000000000002';

const key = (client: string, scopes: readonly string[], store?: string): ApiKey => ({
  id: `key-of-${client}`,
  client,
  scopes,
  store,
  ratePerSecond: undefined,
  optOutsPerDay: undefined,
  grantsPerDay: undefined,
  checksPerDay: undefined,
  lineage: `key-of-${client}`,
  createdAt: AT,
  expiresAt: undefined,
  revokedAt: undefined,
  lastUsedAt: undefined,
});

/** Token → key, as `authenticate` answers. */
export const KEYS: Readonly<Record<string, ApiKey>> = {
  shop: key('shop', ['opt_outs:write', 'opt_outs:read', 'subjects:read', 'checks:read', 'lag:read']),
  other: key('other', ['opt_outs:write', 'opt_outs:read']),
  operator: key('operator', ['lag:read', 'stores:write']),
  auditor: key('auditor', ['opt_outs:read_all']),
  nothing: key('nothing', []),
  crm: key('crm-worker', ['acknowledgements:write'], 'crm'),
  unbound: key('unbound', ['acknowledgements:write']),
};

export const PENDING: Propagation = {
  state: 'pending',
  required: 3,
  confirmed: 0,
  verified: 0,
  uncovered: [],
  firstCompletedAt: undefined,
  stores: [],
};
export const COMPLETE: Propagation = {
  ...PENDING,
  state: 'complete',
  confirmed: 3,
  verified: 2,
  firstCompletedAt: AT,
};

export const LAG: LagReport = {
  as_of: AT,
  status: 'late',
  uncovered: [],
  sources: [
    {
      kind: 'kafka',
      status: 'ok',
      position_age_seconds: 0.4,
      retained_wal_bytes: 81920,
      slot: 'active',
      task: 'running',
      redriven: 3,
    },
  ],
  stores: [
    {
      store: 'crm',
      connector: 'postgres',
      required: true,
      status: 'late',
      evidence: 'read_back',
      outstanding: 12,
      oldest_outstanding_seconds: 31.2,
      absent: 0,
      quarantined: 1,
      verified_through: 48211,
      last_acknowledged_at: AT,
      latency_ms: { count: 1930, p50: 4.1, p95: 9, p99: 14.2, max: 31, window_seconds: 300 },
      worker: { instances: 1, last_seen_at: AT },
      last_error: { code: 'STORE_UNREACHABLE', at: AT },
      backfill: null,
      canary_age_seconds: 12.5,
      drift: 0,
      reconciled_through: 48102,
      drain_eta_seconds: 3,
    },
  ],
};

export const PARKED: Parked = {
  store: 'crm',
  seq: 7,
  optOutId: ID,
  subjectId: SUBJECT_ID,
  subjectKind: 'email',
  version: 2,
  kind: 'quarantine',
  code: 'TOO_LONG',
  attempts: 6,
  recordedAt: AT,
  ageSeconds: 31.2,
  since: AT,
  nextTryAt: AT,
};

const stateOf = (scopes: readonly string[], id: string): SubjectState => ({
  version: 1,
  suppressed: Object.fromEntries(
    scopes.map((scope) => [scope, { first_effective_at: AT, last_effective_at: AT, opt_out_id: id }]),
  ),
  granted: {},
});

/** What the ledger would hand to `render` for a new opt-out. */
export const recordedOf = (intent: OptOutIntent, id: string = ID): Recorded => ({
  outcome: 'recorded',
  optOut: {
    id,
    requestedScopes: intent.scopes,
    effectiveAt: intent.effectiveAt ?? AT,
    receivedAt: AT,
    recordedAt: AT,
    reason: intent.reason,
    regimes: intent.regimes,
    client: intent.caller.client,
    idempotencyKey: intent.idempotencyKey ?? `auto_${id}`,
    firstCompletedAt: undefined,
  },
  subjects: intent.subjects.map((subject) => ({ subject, state: stateOf(intent.scopes, id) })),
  asked: intent.scopes,
  idempotencyKey: intent.idempotencyKey ?? `auto_${id}`,
  effectiveAtAdjusted: false,
  propagation: PENDING,
});

export const FOUND: FoundOptOut = {
  optOut: {
    id: ID,
    requestedScopes: ['email', 'sms'],
    effectiveAt: AT,
    receivedAt: AT,
    recordedAt: AT,
    reason: 'person_request',
    regimes: [],
    client: 'shop',
    idempotencyKey: 'one',
    firstCompletedAt: undefined,
  },
  subjects: [
    {
      id: SUBJECT_ID,
      kind: 'email',
      address: new Address('ada@example.com'),
      masked: 'a••@e••.com',
      state: stateOf(['email', 'sms'], ID),
    },
  ],
  inForce: true,
  evidence: undefined,
  propagation: {
    ...PENDING,
    stores: [
      {
        store: 'crm',
        required: true,
        state: 'pending',
        recordedAt: AT,
        appliedAt: undefined,
        verifiedAt: undefined,
        acknowledgedAt: undefined,
        latencyMs: undefined,
        attempts: undefined,
        reason: undefined,
        decisions: [],
      },
    ],
  },
};

export type StubLedger = Ledger & {
  /** Every intent that reached `record`. */
  readonly intents: OptOutIntent[];
  /** Every call that was counted. */
  readonly uses: Use[];
};

const never = (name: string) => (): never => {
  throw new Error(`the API must not call ${name}`);
};

/** Everything has an answer; a test replaces the one that it is about. */
export function stubLedger(instead: Partial<Ledger> = {}): StubLedger {
  const intents: OptOutIntent[] = [];
  const uses: Use[] = [];
  return {
    intents,
    uses,
    record: (intent, render): Promise<RecordAnswer> => {
      intents.push(intent);
      const id = randomUUIDv7();
      return Promise.resolve({
        status: 201,
        body: render(recordedOf(intent, id)),
        replayed: false,
        optOutId: id,
        decisions: [],
      });
    },
    findOptOut: (id, client) =>
      Promise.resolve(id === ID && (client ?? 'shop') === FOUND.optOut.client ? FOUND : undefined),
    findOptOutAsOf: never('findOptOutAsOf'),
    signing: { current: never('signing.current'), publicKeys: [] },
    listOptOuts: () => Promise.resolve({ optOuts: [FOUND], nextCursor: undefined }),
    lookupSubject: () =>
      Promise.resolve({
        state: { version: 0, suppressed: {}, granted: {} },
        optOuts: [],
        propagation: undefined,
      }),
    waitForPropagation: () => Promise.resolve(COMPLETE),
    erase: never('erase'),
    grant: never('grant'),
    findGrant: () => Promise.resolve(undefined),
    checkSendable: (items) =>
      Promise.resolve({
        asOf: AT,
        items: items.map(() => ({
          canSend: true,
          reason: undefined,
          optOutId: undefined,
          effectiveAt: undefined,
        })),
      }),
    spend: () => Promise.resolve(),
    lag: () => Promise.resolve(LAG),
    gate: (name, maxAgeSeconds) =>
      Promise.resolve(name === 'crm' ? judgeGate(LAG, name, maxAgeSeconds) : undefined),
    listParked: (name) =>
      Promise.resolve(name === 'crm' ? { parked: [PARKED], nextCursor: undefined } : undefined),
    findParked: (name, seq) =>
      Promise.resolve(
        name === 'crm' && seq === PARKED.seq
          ? { ...PARKED, generation: 1, speaksFrom: 6, newestVersion: 2, lastEvidence: undefined }
          : undefined,
      ),
    retryParked: (name) => Promise.resolve(name === 'crm' ? 1 : undefined),
    acknowledge: (_store, report) =>
      Promise.resolve({ accepted: report.acknowledgements.length, duplicate: 0, rejected: [] }),
    outstanding: () =>
      Promise.resolve({
        generation: 1,
        targetSince: '2026-11-01T08:00:00.000Z',
        decisions: [],
        next: undefined,
      }),
    newest: (_store, subjectId) =>
      Promise.resolve(
        subjectId === SUBJECT_ID
          ? {
              ...{ subjectId, seq: 7, version: 2, suppressed: { email: AT }, granted: {} },
              ...{ acknowledgedVersion: 1, firstAcknowledgedVersion: 1 },
            }
          : undefined,
      ),
    transportKey: (id) => Promise.resolve(id === 1 ? Buffer.alloc(32, 7) : undefined),
    canary: () => Promise.resolve(undefined),
    reconciliationPage: () => Promise.resolve(undefined),
    compared: () => Promise.resolve(true),
    listingPage: () => Promise.resolve(undefined),
    listed: () => Promise.resolve(false),
    listing: () => Promise.resolve(undefined),
    reconcile: (store) => Promise.resolve(store === 'crm' ? 5 : undefined),
    reconciliations: (store) => Promise.resolve(store === 'crm' ? [] : undefined),
    // Files are tested over the real ledger.
    imports: new Proxy({}, { get: (_, name) => never(`imports.${String(name)}`) }) as Ledger['imports'],
    authenticate: (token) => Promise.resolve(Object.hasOwn(KEYS, token) ? KEYS[token] : undefined),
    countUse: (use) => void uses.push(use),
    createKey: never('createKey'),
    listKeys: never('listKeys'),
    ready: () => Promise.resolve(),
    ...instead,
  };
}

export const ada = (): { kind: 'email'; value: Address } => ({
  kind: 'email',
  value: new Address('ada@example.com'),
});
