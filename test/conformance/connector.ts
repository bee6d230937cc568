// The suite that every connector passes, on a real server. Which cases run follows from what the connector declares and
// from what its test can do to the store; what is left out shows as skipped.
//
//   describeConnector('ours', { connector, open: () => Promise.resolve({ options: { url }, … }) });
import { once } from 'node:events';
import { connect } from 'node:net';
import { inspect } from 'node:util';
import { describe, expect, test } from '@jest/globals';
import { Item } from '../../connectors/contract/connector.ts';
import type { Connector, Held, Log, Store, SubjectKey } from '../../connectors/contract/connector.ts';
import { Address } from '../../suppression/subject.ts';
import type { Subject } from '../../suppression/subject.ts';
import { eventually } from '../harness/eventually.ts';
import { startTcpProxy } from '../harness/tcp-proxy.ts';
import type { TcpProxy } from '../harness/tcp-proxy.ts';

/** An empty place in a real store; each test gets one of its own. */
export type Place = AsyncDisposable & {
  /** The options as they would stand in abide.yaml. */
  readonly options: object;
};

export type Conformance = {
  readonly connector: Connector;
  /** Makes an empty place. */
  open(): Promise<Place>;
  /** Two channels to try, among those that the store holds. */
  readonly channels?: readonly [string, string];
  /** Where the server listens, and the same options with another port of 127.0.0.1: lets the suite spoil the line. */
  readonly line?: {
    readonly host: string;
    readonly port: number;
    through(options: object, port: number): object;
  };
  /** Sets or lifts one scope in the store itself, past the connector and its versions, as the store's own page would do. */
  readonly byItself?: (place: Place, key: SubjectKey, scope: string, isSuppressed: boolean) => Promise<void>;
  /** Puts a person into a store that cannot remember strangers. */
  readonly meet?: (place: Place, key: SubjectKey) => Promise<void>;
  /** A key that this store refuses for good; makes whatever it takes for that. */
  readonly badKey?: (place: Place) => Promise<string>;
};

const SINCE = '2026-11-24T09:00:00.000Z';
const DEADLINE_MS = 20_000;
/** Less than the 5 s that our connectors give a connection to be made: what waits for a line that hangs takes longer. */
const AT_ONCE_MS = 4_500;
/** The same for one that was begun up to a second and a half before. */
const GONE_WITHIN_MS = 3_000;
let people = 0;

/** A person that nobody else has, in the form of the kind. */
function somebody(kind: Subject['kind']): Subject {
  const unique = `${process.pid}${Date.now().toString().slice(-6)}${(people += 1)}`;
  switch (kind) {
    case 'email':
      return { kind, value: new Address(`ada.o'neil+"${unique}"\\@example.com`) };
    case 'phone':
      return { kind, value: new Address(`+44${unique}`) };
    case 'push_token':
      return { kind, value: new Address(`token:${unique}/é`) };
    case 'person_id':
      return { kind, value: new Address(`person {${unique}}, no. 1`) };
  }
}

type Stated = { version: number; suppressed?: readonly string[]; granted?: Readonly<Record<string, number>> };

/** The decision of a version: scopes suppressed, and scopes with the version of the grant that took them away. */
function decided(
  subject: Subject,
  { version, suppressed = [], granted = {} }: Stated,
  key = subject.value.reveal(),
): Item {
  return new Item({
    seq: version,
    version,
    subject,
    key,
    suppressed: Object.fromEntries(suppressed.map((scope) => [scope, SINCE])),
    granted: Object.fromEntries(
      Object.entries(granted).map(([scope, grantVersion]) => [scope, { at: SINCE, version: grantVersion }]),
    ),
    effectiveAt: SINCE,
    lane: 'live',
  });
}

const deadline = (ms = DEADLINE_MS): AbortSignal => AbortSignal.timeout(ms);
const WRITTEN = expect.stringMatching(/^(applied|accepted)$/);
const SETTLED = expect.stringMatching(/^(applied|accepted|already_newer)$/);

export function describeConnector(name: string, conformance: Conformance): void {
  const { connector, channels, line, byItself, meet, badKey } = conformance;
  const [first, second] = channels ?? ['email', 'sms'];
  const isVersioned = connector.versions === 'stored';
  const isRead = connector.evidence === 'read_back';
  const testIf = (condition: boolean) => (condition ? test : test.skip);

  /** A place, stores on it, and what they logged. */
  async function fixture() {
    const stack = new AsyncDisposableStack();
    const place = stack.use(await conformance.open());
    const logged: string[] = [];
    const keys: string[] = [];
    const write = (fields: object, message: string): number =>
      logged.push(`${message} ${inspect(fields, { depth: 9 })}`);
    const log: Log = { debug: write, info: write, warn: write, error: write };
    const scopes = new Map<string, unknown>([first, second].map((scope) => [scope, undefined]));

    async function openStore(options = place.options): Promise<Store> {
      return stack.use(
        await connector.open(connector.options.parse(options), { log, name: 'conformance', scopes }),
      );
    }
    async function met(subject: Subject): Promise<Subject> {
      keys.push(subject.value.reveal());
      await meet?.(place, { kind: subject.kind, key: subject.value.reveal() });
      return subject;
    }
    const person = (n = people): Promise<Subject> =>
      met(somebody(connector.accepts[n % connector.accepts.length]!));
    /** Reads back until the store has settled, and compares. */
    async function expectHeld(
      store: Store,
      wanted: readonly (readonly [Subject, Held | undefined])[],
    ): Promise<void> {
      if (!isRead) return;
      const normal = (held: Held | undefined) =>
        held && { version: isVersioned ? held.version : undefined, suppressed: [...held.suppressed].sort() };
      const asked = wanted.map(([{ kind, value }]) => ({ kind, key: value.reveal() }));
      const check = async (): Promise<void> => {
        const held = await store.readBack(asked, deadline());
        expect(held.map(normal)).toEqual(wanted.map(([, state]) => normal(state)));
      };
      await (connector.settles === undefined ? check() : eventually(check, connector.settles.withinMs));
    }
    return {
      place,
      openStore,
      met,
      person,
      expectHeld,
      /** Neither a log line nor an error may contain a key. */
      expectNothingTold(...errors: readonly unknown[]): void {
        const said = [...logged, ...errors.map((error) => inspect(error, { depth: 9 }))].join('\n');
        for (const key of keys) expect(said).not.toContain(key);
      },
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
  }

  /** The same, with a line that can be bad between the store and its server. */
  async function behindProxy() {
    const { through, ...server } = line!;
    const stack = new AsyncDisposableStack();
    const proxy = stack.use(await startTcpProxy(server));
    const rest = stack.use(await fixture());
    const store = await rest.openStore(through(rest.place.options, proxy.port));
    // What only a first call does is done now: connections, scripts, tables.
    await store.apply([decided(await rest.person(), { version: 1, suppressed: [first] })], deadline());
    return { ...rest, proxy, store, [Symbol.asyncDispose]: () => stack.disposeAsync() };
  }

  /** Connections are accepted in order: once ours has come and gone, all that were made before it have come as well. */
  async function expectNoConnection(proxy: TcpProxy): Promise<void> {
    const ours = connect(proxy.port, '127.0.0.1').resume().end();
    await once(ours, 'close');
    await eventually(() => expect(proxy.connections).toBe(0), GONE_WITHIN_MS);
  }

  const failureOf = (promise: Promise<unknown>): Promise<unknown> =>
    promise.then(
      () => {
        throw new Error('The call succeeded.');
      },
      (error: unknown) => error,
    );

  describe(`${name} as a connector`, () => {
    test('what is applied is read back', async () => {
      await using f = await fixture();
      const store = await f.openStore();
      const ada = await f.person();

      const outcomes = await store.apply([decided(ada, { version: 3, suppressed: [first] })], deadline());

      expect(outcomes).toEqual([{ kind: WRITTEN }]);
      await f.expectHeld(store, [[ada, { version: 3, suppressed: [first] }]]);
      f.expectNothingTold();
    });

    for (const kind of connector.accepts) {
      test(`it takes a ${kind} as it is`, async () => {
        await using f = await fixture();
        const store = await f.openStore();
        const ada = await f.person(connector.accepts.indexOf(kind));
        await store.apply([decided(ada, { version: 1, suppressed: [second] })], deadline());
        await f.expectHeld(store, [[ada, { version: 1, suppressed: [second] }]]);
      });
    }

    // Email addresses are lower-case by their normal form, and phone numbers have no letters.
    for (const kind of connector.accepts.filter((one) => one === 'person_id' || one === 'push_token')) {
      testIf(isRead)(`of ${kind}, two that differ only in case are two people`, async () => {
        await using f = await fixture();
        const store = await f.openStore();
        const ada = await f.person(connector.accepts.indexOf(kind));
        // By ASCII only, which is all that some stores fold.
        const folded = ada.value.reveal().replaceAll(/[a-z]+/g, (letters) => letters.toUpperCase());
        const other = await f.met({ kind, value: new Address(folded) });
        const decision = { version: 1, suppressed: [first] };
        await store.apply([decided(ada, decision), decided(other, decision)], deadline());

        await store.apply([decided(ada, { version: 2, granted: { [first]: 2 } })], deadline());

        await f.expectHeld(store, [
          [ada, { version: 2, suppressed: [] }],
          [other, { version: 1, suppressed: [first] }],
        ]);
      });
    }

    testIf(isRead)('somebody that the store never heard of is nobody', async () => {
      await using f = await fixture();
      const store = await f.openStore();
      await f.expectHeld(store, [[somebody(connector.accepts[0]!), undefined]]);
      expect(await store.readBack([], deadline())).toEqual([]);
    });

    test('a subject never seen is suppressed, or reported absent, as declared', async () => {
      await using f = await fixture();
      const store = await f.openStore();
      const stranger = somebody(connector.accepts[0]!);

      const outcomes = await store.apply(
        [decided(stranger, { version: 5, suppressed: [first] })],
        deadline(),
      );

      expect(outcomes).toEqual([{ kind: connector.remembersUnknown ? WRITTEN : 'absent' }]);
      const held = connector.remembersUnknown ? { version: 5, suppressed: [first] } : undefined;
      await f.expectHeld(store, [[stranger, held]]);
    });

    testIf(isVersioned)('an older grant read again does not lift a newer opt-out', async () => {
      await using f = await fixture();
      const store = await f.openStore();
      const ada = await f.person();
      await store.apply([decided(ada, { version: 7, suppressed: [first] })], deadline());

      const outcomes = await store.apply([decided(ada, { version: 6, granted: { [first]: 6 } })], deadline());

      expect(outcomes).toEqual([{ kind: 'already_newer' }]);
      await f.expectHeld(store, [[ada, { version: 7, suppressed: [first] }]]);
    });

    testIf(isVersioned)('an older opt-out read again does not undo a newer grant', async () => {
      await using f = await fixture();
      const store = await f.openStore();
      const ada = await f.person();
      await store.apply([decided(ada, { version: 1, suppressed: [first, second] })], deadline());
      await store.apply(
        [decided(ada, { version: 2, suppressed: [second], granted: { [first]: 2 } })],
        deadline(),
      );

      const outcomes = await store.apply(
        [decided(ada, { version: 1, suppressed: [first, second] })],
        deadline(),
      );

      expect(outcomes).toEqual([{ kind: 'already_newer' }]);
      await f.expectHeld(store, [[ada, { version: 2, suppressed: [second] }]]);
    });

    test('a replay has no effect', async () => {
      await using f = await fixture();
      const store = await f.openStore();
      const ada = await f.person();
      const decision = decided(ada, { version: 2, suppressed: [first, second] });
      await store.apply([decision], deadline());

      const outcomes = await store.apply([decision], deadline());

      expect(outcomes).toEqual([{ kind: SETTLED }]);
      await f.expectHeld(store, [[ada, { version: 2, suppressed: [first, second] }]]);
    });

    test('a grant clears its scope and no other', async () => {
      await using f = await fixture();
      const store = await f.openStore();
      const ada = await f.person();
      await store.apply([decided(ada, { version: 1, suppressed: [first, second] })], deadline());

      const grant = decided(ada, { version: 2, suppressed: [second], granted: { [first]: 2 } });
      expect(await store.apply([grant], deadline())).toEqual([{ kind: WRITTEN }]);

      await f.expectHeld(store, [[ada, { version: 2, suppressed: [second] }]]);
    });

    testIf(byItself !== undefined)(
      'an opt-out that the store took by itself survives another scope',
      async () => {
        await using f = await fixture();
        const store = await f.openStore();
        const [ada, grace] = [await f.person(), await f.person()];
        await store.apply([decided(ada, { version: 1, suppressed: [second] })], deadline());
        await byItself!(f.place, { kind: ada.kind, key: ada.value.reveal() }, first, true);
        await byItself!(f.place, { kind: grace.kind, key: grace.value.reveal() }, first, true);

        const decisions = [
          decided(ada, { version: 2, granted: { [second]: 2 } }),
          decided(grace, { version: 1, suppressed: [second] }),
        ];
        expect(await store.apply(decisions, deadline())).toEqual([{ kind: WRITTEN }, { kind: WRITTEN }]);

        await f.expectHeld(store, [
          [ada, { version: 2, suppressed: [first] }],
          [grace, { version: 1, suppressed: [first, second] }],
        ]);
      },
    );

    testIf(isVersioned && byItself !== undefined)(
      'a grant that the store knew lifts no opt-out that it took by itself since',
      async () => {
        await using f = await fixture();
        const store = await f.openStore();
        const ada = await f.person();
        await store.apply([decided(ada, { version: 2, granted: { [first]: 2 } })], deadline());
        await byItself!(f.place, { kind: ada.kind, key: ada.value.reveal() }, first, true);

        await store.apply(
          [decided(ada, { version: 3, suppressed: [second], granted: { [first]: 2 } })],
          deadline(),
        );

        await f.expectHeld(store, [[ada, { version: 3, suppressed: [first, second] }]]);
      },
    );

    testIf(isVersioned && byItself !== undefined)(
      'an equal version heals a resurrection and clears nothing',
      async () => {
        await using f = await fixture();
        const store = await f.openStore();
        const ada = await f.person();
        const key = { kind: ada.kind, key: ada.value.reveal() };
        const decision = decided(ada, { version: 2, suppressed: [second], granted: { [first]: 2 } });
        await store.apply([decision], deadline());
        await byItself!(f.place, key, second, false);
        await byItself!(f.place, key, first, true);

        expect(await store.apply([decision], deadline())).toEqual([{ kind: SETTLED }]);

        await f.expectHeld(store, [[ada, { version: 2, suppressed: [first, second] }]]);
      },
    );

    testIf(connector.topics)('topics and purposes are held apart from their channel', async () => {
      await using f = await fixture();
      const store = await f.openStore();
      const ada = await f.person();
      const [news, offers, purpose] = [`${first}/newsletter`, `${first}/offers`, 'analytics'];
      await store.apply([decided(ada, { version: 1, suppressed: [news, purpose] })], deadline());
      await f.expectHeld(store, [[ada, { version: 1, suppressed: [news, purpose] }]]);

      const newer = decided(ada, {
        version: 3,
        suppressed: [purpose, offers, first],
        granted: { [news]: 3 },
      });
      await store.apply([newer], deadline());

      await f.expectHeld(store, [[ada, { version: 3, suppressed: [purpose, offers, first] }]]);
      await store.apply(
        [decided(ada, { version: 4, suppressed: [first], granted: { [purpose]: 4, [news]: 3 } })],
        deadline(),
      );
      await f.expectHeld(store, [[ada, { version: 4, suppressed: [first, offers] }]]);
    });

    test(`a batch of ${connector.limits.batch} has an outcome each, in order`, async () => {
      await using f = await fixture();
      const store = await f.openStore();
      const subjects: Subject[] = [];
      for (let n = 0; n < connector.limits.batch; n += 1) subjects.push(await f.person(n));
      const newer = subjects.filter((_, n) => n % 7 === 0);
      await store.apply(
        newer.map((subject) => decided(subject, { version: 9, suppressed: [second] })),
        deadline(),
      );

      const batch = subjects.map((subject) => decided(subject, { version: 4, suppressed: [first] }));
      const outcomes = await store.apply(batch, deadline());

      const isOlder = (n: number): boolean => isVersioned && n % 7 === 0;
      expect(outcomes).toEqual(subjects.map((_, n) => ({ kind: isOlder(n) ? 'already_newer' : WRITTEN })));
      const stranger = somebody(connector.accepts[0]!);
      const states = subjects.map((subject, n) => {
        if (n % 7 !== 0) return [subject, { version: 4, suppressed: [first] }] as const;
        return [
          subject,
          isVersioned
            ? { version: 9, suppressed: [second] }
            : { version: undefined, suppressed: [first, second] },
        ] as const;
      });
      await f.expectHeld(store, [...states.reverse(), [stranger, undefined]]);
    });

    testIf(badKey !== undefined)('one bad item is refused and its neighbours are applied', async () => {
      await using f = await fixture();
      const store = await f.openStore();
      const [ada, grace] = [await f.person(0), await f.person(0)];
      const bad = await badKey!(f.place);
      const decision = { version: 1, suppressed: [first] };

      const outcomes = await store.apply(
        [decided(ada, decision), decided(ada, decision, bad), decided(grace, decision)],
        deadline(),
      );

      const refused = { kind: 'refused', code: expect.stringMatching(/^[A-Z][A-Z0-9_]{0,63}$/) };
      expect(outcomes).toEqual([{ kind: WRITTEN }, refused, { kind: WRITTEN }]);
      await f.expectHeld(store, [
        [ada, { version: 1, suppressed: [first] }],
        [grace, { version: 1, suppressed: [first] }],
      ]);
    });

    testIf(isVersioned)('of two writers that race, the newest decision of each subject stands', async () => {
      await using f = await fixture();
      const [one, two, reader] = [await f.openStore(), await f.openStore(), await f.openStore()];
      const subjects = await Promise.all(Array.from({ length: 20 }, (_, n) => f.person(n)));
      const newest = (n: number): number => 12 + (n % 2);
      // Odd versions suppress, even ones lift; both writers bring every version, in orders of their own.
      const decisionOf = (subject: Subject, version: number): Item =>
        decided(
          subject,
          version % 2 === 1 ? { version, suppressed: [first] } : { version, granted: { [first]: version } },
        );
      const shuffled = <T>(values: readonly T[]): T[] =>
        values
          .map((value) => [Math.random(), value] as const)
          .sort(([a], [b]) => a - b)
          .map(([, value]) => value);
      const write = async (store: Store): Promise<void> => {
        for (const version of shuffled(Array.from({ length: 13 }, (_, n) => n + 1))) {
          const due = shuffled(subjects.filter((_, n) => version <= newest(n)));
          await store.apply(
            due.map((subject) => decisionOf(subject, version)),
            deadline(),
          );
        }
      };

      await Promise.all([write(one), write(two), write(one), write(two)]);

      await f.expectHeld(
        reader,
        subjects.map((subject, n) => [
          subject,
          { version: newest(n), suppressed: newest(n) % 2 === 1 ? [first] : [] },
        ]),
      );
    });

    testIf(isRead)('all that is held can be listed, where the store can list', async () => {
      await using f = await fixture();
      const store = await f.openStore();
      if (store.scan === undefined) return;
      const subjects = await Promise.all(Array.from({ length: 9 }, (_, n) => f.person(n)));
      await store.apply(
        subjects.map((subject) => decided(subject, { version: 2, suppressed: [second] })),
        deadline(),
      );

      const found = new Map<string, Held>();
      for (let after: SubjectKey | undefined; ;) {
        const page = await store.scan(after, deadline());
        for (const { kind, key, held } of page) {
          expect(found.has(`${kind}:${key}`)).toBe(false);
          found.set(`${kind}:${key}`, held);
        }
        after = page.at(-1);
        if (after === undefined) break;
      }
      for (const { kind, value } of subjects) {
        expect(found.get(`${kind}:${value.reveal()}`)?.suppressed).toEqual([second]);
      }
    });

    test('a check of the configuration leaves nothing of what it tries', async () => {
      await using f = await fixture();
      const store = await f.openStore();
      if (store.check === undefined) return;
      const subjects = connector.accepts.map(somebody);
      await store.check(
        subjects.map((subject) => decided(subject, { version: 1, suppressed: [first, second] })),
        deadline(),
      );
      await f.expectHeld(
        store,
        subjects.map((subject) => [subject, undefined]),
      );
    });

    test('a call whose signal has aborted already ends at once', async () => {
      await using f = await fixture();
      const store = await f.openStore();
      const ada = await f.person();
      const error = await failureOf(
        store.apply([decided(ada, { version: 1, suppressed: [first] })], AbortSignal.abort()),
      );
      expect(Error.isError(error)).toBe(true);
    });

    testIf(line !== undefined)(
      'connection-cut-in-mid-apply: the call fails, and the next one heals',
      async () => {
        await using f = await behindProxy();
        const subjects = await Promise.all(Array.from({ length: 50 }, (_, n) => f.person(n)));
        const batch = subjects.map((subject) => decided(subject, { version: 2, suppressed: [first] }));

        f.proxy.setFault('cut_request');
        const error = await failureOf(f.store.apply(batch, deadline()));
        f.proxy.setFault('none');

        f.expectNothingTold(error);
        await eventually(() => f.store.apply(batch, deadline()));
        await eventually(() =>
          f.expectHeld(
            f.store,
            subjects.map((subject) => [subject, { version: 2, suppressed: [first] }]),
          ),
        );
      },
    );

    testIf(line !== undefined)(
      'answer-lost-after-write: the call fails, the write is there, a replay is harmless',
      async () => {
        await using f = await behindProxy();
        const direct = await f.openStore();
        const warm = decided(await f.person(), { version: 1, suppressed: [first] });
        const lost: Subject[] = [];
        // If a call is several questions, each answer is lost once: the last one is that of its commit.
        for (;;) {
          await eventually(() => f.store.apply([warm], deadline()));
          const ada = await f.person(0);
          f.proxy.setFault('lose_answer', lost.length);
          const call = f.store.apply([decided(ada, { version: 2, suppressed: [first] })], deadline());
          const error = await call.then(
            () => undefined,
            (reason: unknown) => reason ?? new Error(),
          );
          f.proxy.setFault('none');
          f.expectNothingTold(error);
          if (error === undefined) break;
          lost.push(ada);
        }
        await f.expectHeld(direct, [[lost.at(-1)!, { version: 2, suppressed: [first] }]]);

        const replay = lost.map((subject) => decided(subject, { version: 2, suppressed: [first] }));
        const outcomes = await eventually(() => f.store.apply(replay, deadline()));
        expect(outcomes).toEqual(lost.map(() => ({ kind: SETTLED })));
        await f.expectHeld(
          direct,
          lost.map((subject) => [subject, { version: 2, suppressed: [first] }]),
        );
      },
    );

    testIf(line !== undefined)(
      'store-hangs: every call ends with its signal, and later calls succeed',
      async () => {
        await using f = await behindProxy();
        const ada = await f.person();
        const decision = decided(ada, { version: 2, suppressed: [first] });
        const key = { kind: ada.kind, key: ada.value.reveal() };
        f.proxy.setFault('hang');

        const startedAt = performance.now();
        const errors = await Promise.all([
          failureOf(f.store.apply([decision], deadline(300))),
          failureOf(f.store.readBack([key], deadline(300))),
          ...(f.store.scan === undefined ? [] : [failureOf(f.store.scan(undefined, deadline(300)))]),
        ]);
        expect(performance.now() - startedAt).toBeLessThan(AT_ONCE_MS);
        f.proxy.setFault('none');

        f.expectNothingTold(...errors);
        await eventually(() => f.store.apply([decision], deadline(1_000)));
        await eventually(() => f.expectHeld(f.store, [[ada, { version: 2, suppressed: [first] }]]));
      },
    );

    testIf(line !== undefined)(
      'store-away: calls fail without waiting, and succeed once it is back',
      async () => {
        await using f = await behindProxy();
        const ada = await f.person();
        const decision = decided(ada, { version: 2, suppressed: [first] });
        f.proxy.setFault('refuse');

        const startedAt = performance.now();
        const errors = [];
        for (let n = 0; n < 5; n += 1) errors.push(await failureOf(f.store.apply([decision], deadline())));
        expect(performance.now() - startedAt).toBeLessThan(5_000);
        f.proxy.setFault('none');

        f.expectNothingTold(...errors);
        await eventually(() => f.store.apply([decision], deadline()));
        await eventually(() => f.expectHeld(f.store, [[ada, { version: 2, suppressed: [first] }]]));
      },
    );

    testIf(line !== undefined)('disposal ends every connection', async () => {
      await using f = await behindProxy();
      if (isRead) await f.store.readBack([], deadline());
      await f.store[Symbol.asyncDispose]();
      await expectNoConnection(f.proxy);
    });

    testIf(line !== undefined)('disposal ends every connection, also while a call hangs', async () => {
      await using f = await behindProxy();
      const decision = decided(await f.person(), { version: 2, suppressed: [first] });
      f.proxy.setFault('hang');
      const pending = failureOf(f.store.apply([decision], deadline(500)));
      await eventually(() => expect(f.proxy.hanging).toBeGreaterThan(0));

      const startedAt = performance.now();
      await f.store[Symbol.asyncDispose]();
      expect(performance.now() - startedAt).toBeLessThan(AT_ONCE_MS);

      await pending;
      await expectNoConnection(f.proxy);
    });

    testIf(line !== undefined)('disposal ends every connection, also those just being made', async () => {
      await using f = await behindProxy();
      const ada = await f.person();
      const key = { kind: ada.kind, key: ada.value.reveal() };
      f.proxy.setFault('hang');
      // What an aborted call held is gone, and the next one makes itself a connection that hangs as well.
      await failureOf(f.store.readBack([key], deadline(100)));
      const pending = failureOf(f.store.readBack([key], deadline(100)));
      const disposal = f.store[Symbol.asyncDispose]();
      await Promise.all([disposal, pending]);
      await expectNoConnection(f.proxy);
    });
  });
}
