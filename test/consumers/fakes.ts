// A ledger and a store in memory, for faults that real ones do not show on demand: what a worker does when a store lies, hangs,
// throws or chokes. worker.pg.test.ts shows that it works with real ones.
import { randomBytes } from 'node:crypto';
import { z } from 'zod';
import { defineConnector } from '../../connectors/contract/connector.ts';
import type {
  ApplyOutcome,
  Connector,
  Held,
  Item,
  Store,
  SubjectKey,
} from '../../connectors/contract/connector.ts';
import type { LedgerAccess, OutstandingDecision } from '../../consumers/ledger-access.ts';
import { startWorker } from '../../consumers/worker.ts';
import type { Worker } from '../../consumers/worker.ts';
import { LIFT_NOT_UNDONE } from '../../suppression/acknowledgement.ts';
import type {
  Acknowledgement,
  AcknowledgementReport,
  SourceReport,
} from '../../suppression/acknowledgement.ts';
import type { Decision } from '../../suppression/decision.ts';
import { AbideError } from '../../suppression/errors.ts';
import type { ChangeSource } from '../../stream/change-source.ts';
import { seal } from '../../suppression/seal.ts';

const SINCE = '2026-11-24T09:00:00.000Z';
const KEY = { id: 1, secret: randomBytes(32) };
const SCOPES = ['email', 'sms', 'push'];
const PARKED_AFTER = 5;

let sequence = 0;

/** A decision of somebody: their whole state at a version, with a sequence number above every earlier one's. */
export function decided(
  who: string,
  {
    version = 1,
    suppressed = SCOPES,
    granted = {},
    ...fields
  }: Partial<Omit<Decision, 'suppressed' | 'granted'>> & {
    suppressed?: readonly string[];
    granted?: Readonly<Record<string, number>>;
  } = {},
): Decision {
  const kind = 'email';
  return {
    seq: (sequence += 1),
    optOutId: undefined,
    subjectId: who,
    kind,
    version,
    suppressed: Object.fromEntries(suppressed.map((scope) => [scope, SINCE])),
    granted: Object.fromEntries(
      Object.entries(granted).map(([scope, of]) => [scope, { at: SINCE, version: of }]),
    ),
    effectiveAt: SINCE,
    recordedAt: SINCE,
    sealed: seal(`${who}@example.com`, KEY, [who, kind]).toString('base64url'),
    transportKeyId: KEY.id,
    traceparent: undefined,
    ...fields,
  };
}

/** What the ledger would say, as far as a worker can tell. */
export class FakeLedger implements LedgerAccess {
  generation = 1;
  targetSince = '2020-01-01T00:00:00.000Z';
  paused = false;
  /** Another worker holds the lease while this is false. */
  leased = true;
  /** Thrown by every call while it is set. */
  away: Error | undefined;
  readonly decisions: OutstandingDecision[] = [];
  readonly #bySubject = new Map<string, OutstandingDecision[]>();
  readonly #bySeq = new Map<number, OutstandingDecision>();
  /** By subject, the oldest version that the store acknowledged in an older generation. */
  readonly acknowledgedBefore = new Map<string, number>();
  /** Sequence numbers that it does not believe are held. */
  readonly disbelieved = new Set<number>();
  /** How many more reports come before it sees the decision, which its database may not do for a moment. */
  readonly unseen = new Map<number, number>();
  readonly reports: AcknowledgementReport[] = [];
  readonly settled = new Map<number, Acknowledgement>();
  readonly parked = new Map<number, Acknowledgement>();
  /** How many decisions each page gave. */
  readonly pages: number[] = [];

  add(
    decision: Decision,
    { attempts = 0, asked = 0, lane = 'live' }: Partial<OutstandingDecision> = {},
  ): Decision {
    const one = { ...decision, attempts, asked, lane };
    this.decisions.push(one);
    this.#bySeq.set(one.seq, one);
    this.#bySubject.set(one.subjectId, [...(this.#bySubject.get(one.subjectId) ?? []), one]);
    return decision;
  }

  async outstanding({
    after,
    limit,
  }: Parameters<LedgerAccess['outstanding']>[0]): ReturnType<LedgerAccess['outstanding']> {
    await this.#answer();
    const { generation, targetSince } = this;
    if (this.paused) return { generation, targetSince, decisions: [], next: undefined, paused: true };
    if (!this.leased) return { generation, targetSince, decisions: [], next: undefined, unleased: true };
    const from = after === undefined ? 0 : Number(after);
    const open = this.decisions
      .filter(({ seq }) => !this.settled.has(seq) && !this.parked.has(seq))
      .sort((a, b) => Number(a.lane === 'backfill') - Number(b.lane === 'backfill'));
    const decisions = open.slice(from, from + limit);
    this.pages.push(decisions.length);
    const next = decisions.length < limit ? undefined : String(from + limit);
    return { generation, targetSince, decisions, next };
  }

  async acknowledge(report: AcknowledgementReport): ReturnType<LedgerAccess['acknowledge']> {
    await this.#answer();
    this.reports.push(report);
    const { acknowledgements } = report;
    if (report.generation !== this.generation) {
      const rejected = acknowledgements.map(({ seq }) => ({ seq, code: 'old_generation' as const }));
      return { accepted: 0, duplicate: 0, rejected };
    }
    const rejected: { seq: number; code: 'not_verifiable' | 'unknown_seq' | 'version_mismatch' }[] = [];
    for (const one of acknowledgements) {
      const unseen = this.unseen.get(one.seq) ?? 0;
      const known = this.#bySeq.get(one.seq);
      if (unseen > 0 || known === undefined) {
        this.unseen.set(one.seq, unseen - 1);
        rejected.push({ seq: one.seq, code: 'unknown_seq' });
      } else if (one.subjectId !== known.subjectId || one.version !== known.version)
        rejected.push({ seq: one.seq, code: 'version_mismatch' });
      else if (one.outcome === 'verified' && this.disbelieved.has(one.seq))
        rejected.push({ seq: one.seq, code: 'not_verifiable' });
      else if (one.outcome === 'verified' || one.outcome === 'applied') this.#settle(one);
      else if (one.code === LIFT_NOT_UNDONE) this.settled.delete(one.seq);
      else if (one.outcome !== 'failed' || one.attempts >= PARKED_AFTER) this.parked.set(one.seq, one);
    }
    return { accepted: acknowledgements.length - rejected.length, duplicate: 0, rejected };
  }

  canary: () => Promise<Decision | undefined> = () => Promise.resolve(undefined);
  /** It never asks for a comparison: that is tested with the real ledger. */
  reconciliationPage(): Promise<undefined> {
    return Promise.resolve(undefined);
  }
  compared(): Promise<void> {
    return Promise.resolve();
  }
  listingPage(): Promise<undefined> {
    return Promise.resolve(undefined);
  }
  listed(): Promise<void> {
    return Promise.resolve();
  }

  async newest(subjectId: string): ReturnType<LedgerAccess['newest']> {
    await this.#answer();
    const decisions = this.#bySubject.get(subjectId)!.toSorted((a, b) => b.version - a.version);
    const acknowledged = decisions.filter(({ seq }) => this.settled.get(seq)?.seq === seq);
    return {
      ...decisions[0]!,
      acknowledgedVersion: acknowledged[0]?.version ?? 0,
      firstAcknowledgedVersion: this.acknowledgedBefore.get(subjectId) ?? acknowledged.at(-1)?.version ?? 0,
    };
  }

  /** The keys that there are. */
  readonly keys = new Set([KEY.id]);

  async transportKey(id: number): Promise<Buffer> {
    await this.#answer();
    if (!this.keys.has(id)) throw new AbideError('not-found', `Transport key ${id} is destroyed.`);
    return KEY.secret;
  }

  /** Everything that was reported, oldest first. */
  get acknowledgements(): Acknowledgement[] {
    return this.reports.flatMap(({ acknowledgements }) => acknowledgements);
  }

  #settle(one: Acknowledgement): void {
    const { subjectId } = this.#bySeq.get(one.seq)!;
    for (const older of this.#bySubject.get(subjectId)!) {
      if (older.version > one.version) continue;
      if (!this.settled.has(older.seq)) this.settled.set(older.seq, one);
      this.parked.delete(older.seq);
    }
  }

  async #answer(): Promise<void> {
    await Promise.resolve();
    if (this.away !== undefined) throw this.away;
  }
}

/** A store that does as it is told until a test says otherwise. */
export class FakeStore {
  readonly held = new Map<string, { version: number | undefined; suppressed: Set<string> }>();
  /** The items of every apply, oldest first. */
  readonly applied: (readonly Item[])[] = [];
  opened = 0;
  closed = 0;
  onOpen: () => Promise<void> = () => Promise.resolve();
  onClose: () => Promise<void> = () => Promise.resolve();
  /** Called before the store does anything: throws, hangs, or answers in its place. */
  onApply: (batch: readonly Item[], signal: AbortSignal) => Promise<readonly ApplyOutcome[] | undefined> =
    () => Promise.resolve(undefined);
  onReadBack: (keys: readonly SubjectKey[]) => Promise<readonly (Held | undefined)[] | undefined> = () =>
    Promise.resolve(undefined);

  incarnation: () => Promise<string | undefined> = () => Promise.resolve(undefined);

  connector(declared: Partial<Connector> = {}): Connector {
    return defineConnector({
      options: z.object({}),
      accepts: ['email', 'phone', 'push_token', 'person_id'],
      topics: false,
      versions: 'stored',
      remembersUnknown: true,
      evidence: 'read_back',
      limits: { batch: 100, concurrent: 4 },
      target: () => ['fake'],
      open: () => this.#open(),
      ...declared,
    });
  }

  /** The versions of a subject that were applied, oldest first. */
  versionsOf(who: string): number[] {
    return this.applied.flatMap((batch) =>
      batch.filter(({ key }) => key === `${who}@example.com`).map(({ version }) => version),
    );
  }

  suppressedOf(who: string): string[] {
    return [...(this.held.get(`${who}@example.com`)?.suppressed ?? [])].sort();
  }

  async #open(): Promise<Store> {
    await this.onOpen();
    this.opened += 1;
    return {
      apply: async (batch, signal) => {
        this.applied.push(batch);
        return (await this.onApply(batch, signal)) ?? batch.map((item) => this.write(item));
      },
      readBack: async (keys) => (await this.onReadBack(keys)) ?? keys.map(({ key }) => this.#read(key)),
      incarnation: () => this.incarnation(),
      [Symbol.asyncDispose]: () => {
        this.closed += 1;
        return this.onClose();
      },
    };
  }

  write(item: Item): ApplyOutcome {
    const { version: heldVersion = 0, suppressed: before = [] } = this.held.get(item.key) ?? {};
    if (heldVersion > item.version) return { kind: 'already_newer' };
    const suppressed = new Set([...before, ...Object.keys(item.suppressed)]);
    for (const [scope, { version }] of Object.entries(item.granted)) {
      if (heldVersion < version) suppressed.delete(scope);
    }
    this.held.set(item.key, { version: item.version, suppressed });
    return { kind: 'applied' };
  }

  #read(key: string): Held | undefined {
    const held = this.held.get(key);
    return held && { version: held.version, suppressed: [...held.suppressed] };
  }
}

const SOURCE: SourceReport = {
  kind: 'pgoutput',
  status: 'ok',
  position: undefined,
  positionAgeSeconds: undefined,
  parked: 0,
};

export type Carrying = AsyncDisposable & {
  readonly worker: Worker;
  readonly ledger: FakeLedger;
  readonly store: FakeStore;
  readonly logged: string[];
  /** The fields of each of these lines. */
  readonly fields: object[];
  /** Records decisions, and has the stream deliver them. */
  commit(...decisions: readonly Decision[]): Promise<void>;
};

/** A worker between the two; disposal stops it. */
export function carry({
  ledger = new FakeLedger(),
  store = new FakeStore(),
  declared = {},
  scopes = SCOPES,
  // Longer than any of them takes: a call that ends for the machine's sake would be a failure of the store.
  callMsMax = 60_000,
  source = {},
}: {
  ledger?: FakeLedger;
  store?: FakeStore;
  declared?: Partial<Connector>;
  scopes?: readonly string[];
  callMsMax?: number;
  source?: Pick<ChangeSource, 'hasOtherWriters'>;
} = {}): Carrying {
  const logged: string[] = [];
  const fields: object[] = [];
  const write = (beside: object, message: string): void => {
    fields.push(beside);
    logged.push(message);
  };
  const connector = store.connector(declared);
  const worker = startWorker({
    store: {
      name: 'crm',
      connector,
      options: {},
      scopes: new Map(scopes.map((scope) => [scope, undefined])),
      accepts: connector.accepts,
      makeKey: (value) => value,
      isPlain: true,
    },
    ledger,
    source: { report: () => SOURCE, ...source },
    id: 'worker-1',
    log: { debug: () => undefined, info: write, warn: write, error: write },
    callMsMax,
  });
  let stopped: Promise<void> | undefined;
  const stop = (): Promise<void> => (stopped ??= worker.stop());
  return {
    worker: { ...worker, stop },
    ledger,
    store,
    logged,
    fields,
    commit: (...decisions) => {
      for (const decision of decisions) ledger.add(decision);
      return worker.offer(decisions);
    },
    [Symbol.asyncDispose]: stop,
  };
}
