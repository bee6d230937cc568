// The suite that every change source passes, on real servers and through a line that can be bad.
//
//   describeChangeSource('pgoutput', { open: async () => ({ source, databaseUrl, line, … }) });
import { randomUUID } from 'node:crypto';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, test } from '@jest/globals';
import pg from 'pg';
import type { ChangeListener, ChangeSource } from '../../stream/change-source.ts';
import type { Decision } from '../../suppression/decision.ts';
import { eventually } from '../harness/eventually.ts';
import type { TcpProxy } from '../harness/tcp-proxy.ts';

/** A source, not started yet, on a ledger of its own; disposal takes the source with it. */
export type SourcePlace = AsyncDisposable & {
  readonly source: ChangeSource;
  /** The URL of the ledger, for a role that may write decisions and look at everything. */
  readonly databaseUrl: string;
  /** Between the source and what it reads. */
  readonly line: TcpProxy;
  /** Fails while anything is left on the server of a source that was disposed of. */
  expectNothingLeft?(): Promise<void>;
};

export type SourceConformance = {
  /** `hangs`: the line will. A source may notice that sooner than elsewhere, where a busy machine would make it seem so. */
  open(hangs?: boolean): Promise<SourcePlace>;
  /** Most decisions that it has delivered, or keeps, without the listener's answer. */
  readonly heldMax: number;
  /** False: it does not wait for the listener, which leaves to the ledger what is too much. */
  readonly waits: boolean;
};

const SINCE = '2026-11-24T09:00:00.123Z';
const SEALED = Buffer.from('sealed elsewhere');
/** Each may take up to 2.5 s to say goodbye; making a connection, or a long poll, takes longer. */
const DISPOSED_WITHIN_MS = 4_500;

export type Decided = {
  readonly subjectId: string;
  readonly version?: number;
  readonly kind?: string;
};

const INSERT = `
  insert into decisions (id, cause, subject_id, kind, version, suppressed, granted, effective_at, recorded_at, sealed,
                         transport_key_id)
  select gen_random_uuid(), 'opt_out', subject_id, kind, version, '{"email":"${SINCE}"}',
    '{"sms":{"at":"${SINCE}","version":1}}', '${SINCE}', clock_timestamp(), $4, 1
  from unnest($1::uuid[], $2::text[], $3::bigint[]) as one (subject_id, kind, version)
  returning seq`;

/** Writes decisions as recording does; they are committed with the client's transaction. */
export async function decide(client: pg.Client, decided: readonly Decided[]): Promise<number[]> {
  const { rows } = await client.query<{ seq: string }>(INSERT, [
    decided.map(({ subjectId }) => subjectId),
    decided.map(({ kind = 'email' }) => kind),
    decided.map(({ version = 1 }) => version),
    SEALED,
  ]);
  return rows.map(({ seq }) => Number(seq));
}

const somebody = (fields: Partial<Decided> = {}): Decided => ({ subjectId: randomUUID(), ...fields });
const many = (count: number): Decided[] => Array.from({ length: count }, () => somebody());

/** Takes what is delivered, and remembers only what tests ask for. */
class Audience implements ChangeListener {
  readonly seqs = new Set<number>();
  readonly versions: { subjectId: string; version: number }[] = [];
  readonly said: ('live' | 'down')[] = [];
  first: Decision | undefined;
  onDecisions: (batch: readonly Decision[]) => Promise<void> = () => Promise.resolve();

  /** Not async: while it waits, it must not keep the batch itself. */
  decisions(batch: readonly Decision[]): Promise<void> {
    for (const decision of batch) {
      this.first ??= decision;
      if (!this.seqs.has(decision.seq)) {
        this.versions.push({ subjectId: decision.subjectId, version: decision.version });
      }
      this.seqs.add(decision.seq);
    }
    return this.onDecisions(batch);
  }
  live(): void {
    this.said.push('live');
  }
  down(): void {
    this.said.push('down');
  }

  get isLive(): boolean {
    return this.said.at(-1) === 'live';
  }
  expectHeard(seqs: readonly number[]): void {
    const missing = seqs.filter((seq) => !this.seqs.has(seq));
    expect({ missing: missing.length, first: missing[0] }).toEqual({ missing: 0 });
  }
}

export function describeChangeSource(name: string, conformance: SourceConformance): void {
  const { heldMax, waits } = conformance;

  /** A place, a listener, and connections to decide with. */
  async function fixture(hangs?: boolean) {
    const stack = new AsyncDisposableStack();
    const place = stack.use(await conformance.open(hangs));
    const audience = new Audience();
    const connect = async (): Promise<pg.Client> => {
      const client = new pg.Client(place.databaseUrl);
      await client.connect();
      stack.defer(() => client.end());
      return client;
    };
    const client = await connect();
    return {
      place,
      audience,
      connect,
      commit: (...decided: readonly Decided[]) => decide(client, decided),
      start: async (): Promise<void> => {
        place.source.start(audience);
        await eventually(() => expect(audience.isLive).toBe(true));
      },
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
  }

  describe(`change source ${name}`, () => {
    test('a decision that is committed while it is live arrives with all that it says', async () => {
      await using t = await fixture();
      await t.start();
      const one = somebody({ version: 3 });
      const [seq] = await t.commit(one);
      await eventually(() => t.audience.expectHeard([seq!]));
      expect(t.audience.first).toMatchObject({
        seq,
        subjectId: one.subjectId,
        kind: 'email',
        version: 3,
        suppressed: { email: SINCE },
        granted: { sms: { at: SINCE, version: 1 } },
        effectiveAt: SINCE,
        recordedAt: expect.stringMatching(/^\d{4}-.*\.\d{3}Z$/),
        sealed: SEALED.toString('base64url'),
        transportKeyId: 1,
      });
    });

    test('a transaction of 12,000 decisions arrives whole', async () => {
      await using t = await fixture();
      await t.start();
      const seqs = await t.commit(...many(12_000));
      await eventually(() => t.audience.expectHeard(seqs));
    });

    test("a subject's decisions arrive in the order of their versions", async () => {
      await using t = await fixture();
      await t.start();
      const [ada, bob] = [somebody(), somebody()];
      const seqs: number[] = [];
      for (let version = 1; version <= 50; version += 1) {
        seqs.push(...(await t.commit({ ...ada, version }, { ...bob, version })));
      }
      await eventually(() => t.audience.expectHeard(seqs));
      for (const { subjectId } of [ada, bob]) {
        const versions = t.audience.versions.filter((one) => one.subjectId === subjectId);
        expect(versions.map(({ version }) => version)).toEqual(Array.from({ length: 50 }, (_, n) => n + 1));
      }
    });

    test('a decision that commits late, below a newer sequence number, arrives', async () => {
      await using t = await fixture();
      await t.start();
      await t.commit(...many(2_500));
      const slow = await t.connect();
      await slow.query('begin');
      const [late] = await decide(slow, [somebody()]);
      const newer = await t.commit(...many(1_000));
      await eventually(() => t.audience.expectHeard(newer));
      expect(Math.min(...newer)).toBeGreaterThan(late!);
      expect(t.audience.seqs.has(late!)).toBe(false);
      await slow.query('commit');
      await eventually(() => t.audience.expectHeard([late!]));
    });

    test('what is rolled back never arrives', async () => {
      await using t = await fixture();
      await t.start();
      const undecided = await t.connect();
      await undecided.query('begin');
      const [never] = await decide(undecided, [somebody()]);
      await undecided.query('rollback');
      const [after] = await t.commit(somebody());
      await eventually(() => t.audience.expectHeard([after!]));
      expect(t.audience.seqs.has(never!)).toBe(false);
    });

    test('while the server refuses it claims nothing, and it is live once the server takes it', async () => {
      await using t = await fixture();
      t.place.line.setFault('refuse');
      t.place.source.start(t.audience);
      await eventually(() => expect(t.audience.said).toContain('down'));
      expect(t.audience.said).not.toContain('live');
      expect(t.place.source.report()).toMatchObject({ status: 'down' });
      t.place.line.setFault('none');
      await eventually(() => expect(t.audience.isLive).toBe(true));
      const seqs = await t.commit(somebody());
      await eventually(() => t.audience.expectHeard(seqs));
    });

    test.each(['refuse', 'hang'] as const)(
      'when the line to the server fails (%s) it says that it is down, and goes on once the line is mended',
      async (fault) => {
        await using t = await fixture(fault === 'hang');
        await t.start();
        t.place.line.setFault(fault);
        await eventually(() => expect(t.audience.isLive).toBe(false));
        expect(t.place.source.report().status).not.toBe('ok');
        t.place.line.setFault('none');
        await eventually(() => expect(t.audience.isLive).toBe(true));
        expect(t.place.source.report().status).toBe('ok');
        const seqs = await t.commit(...many(10));
        await eventually(() => t.audience.expectHeard(seqs));
      },
    );

    test.each(['while it is live', 'while the server refuses', 'while the line hangs'] as const)(
      'disposed of %s, it ends at once, delivers no more and leaves nothing behind',
      async (state) => {
        await using t = await fixture();
        if (state === 'while it is live') await t.start();
        else {
          t.place.line.setFault(state === 'while the line hangs' ? 'hang' : 'refuse');
          t.place.source.start(t.audience);
          if (state === 'while the line hangs')
            await eventually(() => expect(t.place.line.hanging).toBeGreaterThan(0));
          else await eventually(() => expect(t.audience.said).toContain('down'));
        }
        const began = performance.now();
        await t.place.source[Symbol.asyncDispose]();
        expect(performance.now() - began).toBeLessThan(DISPOSED_WITHIN_MS);
        const { length } = t.audience.said;
        t.place.line.setFault('none');
        await t.commit(...many(10));
        await t.place.expectNothingLeft?.();
        expect(t.audience.seqs.size).toBe(0);
        expect(t.audience.said).toHaveLength(length);
      },
    );

    test('a listener that never answers does not fill the memory, and misses nothing', async () => {
      await using t = await fixture();
      const answer: PromiseWithResolvers<void> = Promise.withResolvers();
      const delivered: WeakRef<Decision>[] = [];
      t.audience.onDecisions = (batch) => {
        for (const decision of batch) delivered.push(new WeakRef(decision));
        return answer.promise;
      };
      await t.start();
      const seqs: number[] = [];
      for (let n = 0; n < 3; n += 1) seqs.push(...(await t.commit(...many(10_000))));
      await eventually(() => t.audience.expectHeard(seqs.slice(0, 1)));
      t.audience.first = undefined;
      if (!waits) await eventually(() => t.audience.expectHeard(seqs));
      await eventually(() => {
        collectGarbage();
        expect(delivered.filter((one) => one.deref() !== undefined).length).toBeLessThanOrEqual(heldMax);
      });
      answer.resolve();
      // By pages, all of which nobody acknowledges: a slow machine takes long.
      await eventually(() => t.audience.expectHeard(seqs), 120_000);
    });

    test('a row that cannot be read is counted and holds nothing up', async () => {
      await using t = await fixture();
      await t.start();
      const [before, unreadable, after] = await t.commit(somebody(), somebody({ kind: 'fax' }), somebody());
      const [next] = await t.commit(somebody());
      await eventually(() => t.audience.expectHeard([before!, after!, next!]));
      expect(t.audience.seqs.has(unreadable!)).toBe(false);
      await eventually(() => expect(t.place.source.report().parked).toBe(1));
      // The source may say that it is down for a while, so that the ledger is read.
      await eventually(() => expect(t.audience.isLive).toBe(true));
    });

    test('it reports how it does and how far it has read', async () => {
      await using t = await fixture();
      expect(t.place.source.report()).toMatchObject({ status: 'unknown', parked: 0 });
      await t.start();
      const seqs = await t.commit(somebody());
      await eventually(() => t.audience.expectHeard(seqs));
      const { kind, status, position, positionAgeSeconds } = t.place.source.report();
      expect({ kind, status }).toEqual({ kind: name, status: 'ok' });
      expect(position).toMatch(/^[\x21-\x7e]{1,128}$/);
      expect(positionAgeSeconds).toBeLessThan(10);
      await t.commit(somebody());
      await eventually(() => expect(t.place.source.report().position).not.toBe(position));
    });
  });
}

function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
}
