// What a guard does, whichever database keeps it.
import { hash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { Item } from '../../connectors/contract/connector.ts';
import type { Connector } from '../../connectors/contract/connector.ts';
import { openGuard } from '../../processes/guard/open-guard.ts';
import { Address, normalise } from '../../suppression/subject.ts';
import type { SubjectKind } from '../../suppression/subject-kind.ts';

export type GuardPlace = AsyncDisposable & {
  /** As the store's own role, which owns what is there. */
  readonly url: string;
  query(sql: string): Promise<Record<string, unknown>[]>;
  /** Loads into `contacts`, in the database's own way for many rows: lines of email, phone, may_mail, no_texts (t or f). */
  load(lines: readonly string[]): Promise<void>;
  /** Everything that is defined in the database. */
  listing(): Promise<unknown>;
  /** A role with all rights on `contacts` and none on anything else; and a role that may do nothing but look. */
  importer(): Promise<(sql: string) => Promise<unknown>>;
  reader(): Promise<string>;
};

const CONTACTS = `create table contacts (
  id int primary key, email varchar(200), phone varchar(50), may_mail boolean, no_texts boolean, remark varchar(50))`;
const GUARD = `
      - { table: contacts, key: email, may_send: { email: may_mail } }
      - { table: contacts, key: phone, kind: phone, suppressed: { sms: no_texts } }`;
const SINCE = '2026-11-24T09:00:00.000Z';

type Told = {
  suppressed?: readonly string[];
  granted?: readonly string[];
  version?: number;
  kind?: SubjectKind;
};

export function describeGuard(
  connectorName: string,
  connector: Connector,
  openPlace: () => Promise<GuardPlace>,
): void {
  async function given({
    guard = GUARD,
    extra = '',
    contacts = CONTACTS,
  }: { guard?: string; extra?: string; contacts?: string } = {}) {
    const stack = new AsyncDisposableStack();
    const place = stack.use(await openPlace());
    const folder = await mkdtemp(join(tmpdir(), 'abide-guard-'));
    stack.defer(() => rm(folder, { recursive: true }));
    const file = join(folder, 'abide.yaml');
    const silent = (): void => undefined;
    const store = stack.use(
      await connector.open(connector.options.parse({ url: place.url }), {
        log: { debug: silent, info: silent, warn: silent, error: silent },
        name: 'crm',
        scopes: new Map(),
      }),
    );
    await place.query(contacts);

    async function configure(tables: string, more = extra, name = 'crm'): Promise<void> {
      const stanza = `{ connector: ${connectorName}, url: '${place.url}', scopes: [email, sms]`;
      await writeFile(
        file,
        `stores:\n  ${name}:\n    connector: ${connectorName}\n    url: '${place.url}'\n    scopes: [email, sms]\n    ${more}\n    guard:${tables}\n` +
          `  second: ${stanza}, table: others, guard: [{ table: contacts, key: phone, kind: phone, suppressed: { email: no_texts } }] }\n`,
      );
    }
    await configure(guard);
    const env = { ABIDE_CONFIG: file };
    const tell = async (
      key: string,
      { suppressed = ['email'], granted = [], version = 1, kind = 'email' }: Told = {},
    ) => {
      const item = new Item({
        seq: version,
        version,
        subject: { kind, value: new Address(key) },
        key,
        suppressed: Object.fromEntries(suppressed.map((scope) => [scope, SINCE])),
        granted: Object.fromEntries(granted.map((scope) => [scope, { at: SINCE, version }])),
        effectiveAt: SINCE,
        lane: 'live',
      });
      expect(await store.apply([item], AbortSignal.timeout(10_000))).toEqual([{ kind: 'applied' }]);
    };
    return {
      place,
      env,
      configure,
      tell,
      guard: (name = 'crm', url?: string) => openGuard(env, name, url),
      install: async (name = 'crm') => {
        await using opened = await openGuard(env, name);
        return await opened.run(await opened.installing());
      },
      remove: async (keepLog = false, name = 'crm') => {
        await using opened = await openGuard(env, name);
        const { statements, logStays } = await opened.removing({ keepLog });
        await opened.run(statements);
        return logStays;
      },
      states: async (name = 'crm') => {
        await using opened = await openGuard(env, name);
        return (await opened.status()).map(({ column, state, resurrected, unreadable }) => [
          column,
          state,
          resurrected,
          unreadable,
        ]);
      },
      /** Of each contact: may it be mailed, and is it kept from texts? */
      contacts: async () =>
        (await place.query('select id, may_mail, no_texts from contacts order by id')).map((row) => [
          row['id'],
          row['may_mail'] === null ? null : Boolean(row['may_mail']),
          row['no_texts'] === null ? null : Boolean(row['no_texts']),
        ]),
      logged: async () => {
        const rows = await place.query('select * from abide_guard_log');
        return rows
          .map((row) => `${String(row['kind'])} ${String(row['channel'])} ${String(row['key'])}`)
          .sort();
      },
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
  }

  describe(`a guard in ${connectorName}`, () => {
    test('an import of many rows resurrects nobody, and whoever tried is logged', async () => {
      await using t = await given();
      await t.tell('ada@example.com');
      await t.tell('+442071838750', { kind: 'phone', suppressed: ['sms'] });
      await t.install();

      await t.place.query(`insert into contacts values
        (1, ' Ada@Example.COM ', '+44 20 7183-8750', true, false, 'both'), (2, 'grace@example.com', '+12025550123', true, false, null),
        (3, 'ada@example.com', null, null, null, 'never said'), (4, null, null, true, false, 'nobody')`);
      await t.place.load(['5,ada@example.com,+12025550124,t,f', '6,joan@example.com,+44 (20) 71838750,t,f']);

      expect(await t.contacts()).toEqual([
        [1, false, true],
        [2, true, false],
        [3, false, null],
        [4, true, false],
        [5, false, false],
        [6, true, true],
      ]);
      expect(await t.logged()).toEqual([
        'email email ada@example.com',
        'email email ada@example.com',
        'email email ada@example.com',
        'phone sms +442071838750',
        'phone sms +442071838750',
      ]);
    });

    test('an update that enables everybody enables all but the suppressed', async () => {
      await using t = await given();
      await t.place.query(
        "insert into contacts (id, email, may_mail) values (1, 'ada@example.com', false), (2, 'grace@example.com', false)",
      );
      await t.tell('ada@example.com');
      await t.install();
      await t.place.query('update contacts set may_mail = true');
      expect(await t.contacts()).toEqual([
        [1, false, null],
        [2, true, null],
      ]);
      expect(await t.logged()).toEqual(['email email ada@example.com']);

      await t.place.query("update contacts set remark = 'seen'");
      expect(await t.logged()).toHaveLength(1);
      await t.place.query("update contacts set email = 'ada@example.com' where id = 2");
      expect((await t.contacts())[1]).toEqual([2, false, null]);
    });

    test('somebody who opts out tomorrow is held from then on, and one whose consent came back is not', async () => {
      await using t = await given();
      await t.tell('grace@example.com');
      await t.install();
      await t.place.query("insert into contacts (id, email, may_mail) values (1, 'ada@example.com', true)");
      await t.tell('ada@example.com');
      await t.tell('grace@example.com', { version: 2, suppressed: [], granted: ['email'] });
      await t.place.query('update contacts set may_mail = true');
      await t.place.query("insert into contacts (id, email, may_mail) values (2, 'grace@example.com', true)");
      expect(await t.contacts()).toEqual([
        [1, false, null],
        [2, true, null],
      ]);
    });

    // In a database whose locale is C, PostgreSQL's lower() leaves letters beyond ASCII as they are: JOSÉ was not held, and was not
    // counted as unreadable.
    test('an address in capitals is known whatever its letters', async () => {
      await using t = await given();
      await t.tell('josé@example.com');
      await t.install();
      await t.place.query(`insert into contacts (id, email, may_mail) values
        (1, 'JOSÉ@Example.com', true), (2, 'José@example.com', true), (3, 'josé@example.com', true), (4, 'Jose@example.com', true)`);
      expect((await t.contacts()).map(([, mayMail]) => mayMail)).toEqual([false, false, false, true]);
      expect(await t.states()).toMatchObject([['may_mail', 'installed', 0, 0], {}]);
    });

    // SQL's lower() makes of a capital sigma ς at the end of a word at most, and for it a dot ends none.
    test('an address whose sigmas SQL does not spell as we do is counted as unreadable, and no other', async () => {
      await using t = await given({ contacts: CONTACTS.replaceAll('varchar', 'national character varying') });
      await t.tell('νικος.παπ@example.com');
      await t.install();
      await t.place.query(`insert into contacts (id, email, may_mail) values
        (1, 'νικος.παπ@example.com', true), (2, 'Νικος.Παπ@example.com', true), (3, 'σ.παπ@example.com', true),
        (4, 'σασ1@example.com', true), (5, 'ΝΙΚΟΣ.ΠΑΠ@example.com', true), (6, 'νικοσ.παπ@example.com', true),
        (7, 'νικοςπαπ@example.com', true), (8, 'ς.παπ@example.com', true)`);
      expect((await t.contacts()).map(([, mayMail]) => mayMail)).toEqual([
        false,
        false,
        ...Array<boolean>(6).fill(true),
      ]);
      expect(await t.states()).toMatchObject([['may_mail', 'installed', 0, 5], {}]);
    });

    test('an address is known with whatever space around it', async () => {
      await using t = await given({ contacts: CONTACTS.replaceAll('varchar', 'national character varying') });
      await t.tell('ada@example.com');
      await t.tell('+442071838750', { kind: 'phone', suppressed: ['sms'] });
      await t.install();
      const spaces = Array.from({ length: 0x10000 }, (_, n) => String.fromCharCode(n)).filter(
        (one) => one.trim() === '',
      );
      expect(spaces).toHaveLength(25);
      for (const [n, space] of spaces.entries()) {
        await t.place.query(
          `insert into contacts (id, email, phone, may_mail, no_texts)
           values (${n}, '${space}${space}ada@example.com${space}', '${space}+442071838750${space}', true, false)`,
        );
      }
      expect(await t.contacts()).toEqual(spaces.map((_, n) => [n, false, true]));
    });

    test('an address is known with the dot of the root behind its domain', async () => {
      await using t = await given();
      await t.tell('ada@example.com');
      await t.install();
      await t.place.query(
        "insert into contacts (id, email, may_mail) values (1, 'Ada@Example.com. ', true), (2, 'ada@example.co.', true)",
      );
      expect((await t.contacts()).map(([, mayMail]) => mayMail)).toEqual([false, true]);
    });

    test('who is enabled already is held down by the installation, once', async () => {
      await using t = await given();
      await t.place.query(
        "insert into contacts (id, email, may_mail) values (1, 'ada@example.com', true), (2, 'grace@example.com', true)",
      );
      await t.tell('ada@example.com');
      expect(await t.states()).toEqual([
        ['may_mail', 'absent', 1, 0],
        ['no_texts', 'absent', 0, 0],
      ]);
      expect(await t.install()).toBe(1);
      const made = await t.place.listing();
      expect(await t.install()).toBe(0);
      // What the guard itself held down is nobody's attempt.
      expect(await t.logged()).toEqual([]);
      expect(await t.place.listing()).toEqual(made);
      expect(await t.contacts()).toEqual([
        [1, false, null],
        [2, true, null],
      ]);
      expect(await t.states()).toEqual([
        ['may_mail', 'installed', 0, 0],
        ['no_texts', 'installed', 0, 0],
      ]);
    });

    test('its removal leaves everything as it was, and the log only if asked to', async () => {
      await using t = await given();
      await t.tell('ada@example.com');
      const before = await t.place.listing();
      await t.install();
      expect(await t.place.listing()).not.toEqual(before);
      await t.remove(true);
      await t.place.query("insert into contacts (id, email, may_mail) values (1, 'ada@example.com', true)");
      expect(await t.contacts()).toEqual([[1, true, null]]);
      expect(await t.logged()).toEqual([]);
      await t.place.query('drop table abide_guard_log');
      expect(await t.place.listing()).toEqual(before);

      await t.install();
      await t.remove();
      expect(await t.place.listing()).toEqual(before);
      await t.remove();
      expect(await t.place.listing()).toEqual(before);
    });

    test('what the configuration does not name any more is gone with the next installation', async () => {
      await using t = await given();
      await t.tell('ada@example.com');
      await t.install();
      await t.configure('\n      - { table: contacts, key: email, suppressed: { email: no_texts } }');
      expect(await t.states()).toEqual([['no_texts', 'outdated', 0, 0]]);
      await t.install();
      expect(await t.states()).toEqual([['no_texts', 'installed', 0, 0]]);
      await t.place.query("insert into contacts values (1, 'ada@example.com', null, true, false, null)");
      expect(await t.contacts()).toEqual([[1, true, true]]);
    });

    // status only looked for a trigger of that name. It had gone with the renamed table, and nothing guarded the new one.
    test('a table that was put in the place of a guarded one is not called guarded, and is by the next installation', async () => {
      await using t = await given();
      await t.tell('ada@example.com');
      await t.install();
      await t.place.query(`alter table contacts rename to contacts_old; ${CONTACTS}`);
      await t.place.query("insert into contacts (id, email, may_mail) values (1, 'ada@example.com', true)");
      expect(await t.states()).toEqual([
        ['may_mail', 'outdated', 1, 0],
        ['no_texts', 'outdated', 0, 0],
      ]);

      expect(await t.install()).toBe(1);
      expect(await t.states()).toEqual([
        ['may_mail', 'installed', 0, 0],
        ['no_texts', 'installed', 0, 0],
      ]);
      await t.place.query('update contacts set may_mail = true');
      await t.place.query(
        "insert into contacts_old (id, email, may_mail) values (1, 'ada@example.com', true)",
      );
      expect(await t.contacts()).toEqual([[1, false, null]]);
      expect(await t.place.query('select id from contacts_old where may_mail')).toEqual([{ id: 1 }]);
    });

    // Its triggers were made under the store's old name: they were said to be absent, and nothing removed them any more.
    test('a store that was renamed has the guard that it had, and nothing is left of it', async () => {
      await using t = await given();
      await t.tell('ada@example.com');
      const before = await t.place.listing();
      await t.install();
      await t.configure(GUARD, 'formerly: crm', 'customers');
      const isThere = [
        ['may_mail', 'installed', 0, 0],
        ['no_texts', 'installed', 0, 0],
      ];
      expect(await t.states('customers')).toEqual(isThere);
      await t.install('customers');
      expect(await t.states('customers')).toEqual(isThere);
      await t.configure(GUARD);
      expect((await t.states()).map(([, state]) => state)).toEqual(['absent', 'absent']);
      await t.configure(GUARD, 'formerly: crm', 'customers');
      await t.remove(false, 'customers');
      expect(await t.place.listing()).toEqual(before);
    });

    test('of two stores in one database each has its own, and the log goes with the last', async () => {
      await using t = await given();
      await t.tell('ada@example.com');
      await t.place.query('create table others as select * from suppressions');
      const before = await t.place.listing();
      await t.install('crm');
      await t.install('second');
      expect(await t.remove(false, 'crm')).toBe('the guard of another store writes to it');
      expect(await t.logged()).toEqual([]);
      expect(await t.remove(false, 'second')).toBeUndefined();
      expect(await t.place.listing()).toEqual(before);
    });

    test('where the store is keyed by SHA-256 the log has no address either', async () => {
      await using t = await given({ extra: 'key: { sha256: hex }' });
      const key = hash('sha256', 'ada@example.com', 'hex');
      await t.tell(key);
      await t.install();
      await t.place.query("insert into contacts (id, email, may_mail) values (1, 'ADA@example.com', true)");
      expect(await t.contacts()).toEqual([[1, false, null]]);
      expect(await t.logged()).toEqual([`email email ${key}`]);
    });

    test('whom SQL cannot recognise is counted, not passed over in silence', async () => {
      await using t = await given();
      await t.tell('ada@xn--bcher-kva.example');
      await t.install();
      await t.place.query(`insert into contacts (id, email, phone, may_mail) values
        (1, 'ada@bücher.example', '020 7183 8750', true), (2, 'grace@example.com', '+44 (0)20 71838750', true),
        (3, 'joan@example.com', '+44 020 71838750', true), (4, null, '+39 06 6982', true), (5, null, '+225 01 23456789', true)`);
      expect(await t.states()).toEqual([
        ['may_mail', 'installed', 0, 1],
        ['no_texts', 'installed', 0, 3],
      ]);
    });

    // For the API each pair is one person; those with the prefix were looked up as they are, and not counted.
    test('a number with its national prefix is counted as not recognised, and as it is in E.164 it is held', async () => {
      const pairs = [
        ['+12025550123', '+1 1 202 555 0123'],
        ['+79123456789', '+7 8 912 345-67-89'],
        ['+375294911911', '+375 8 29 491 19 11'],
        ['+37061234567', '+370 8 612 34567'],
        ['+99366123456', '+993 8 66 123456'],
        ['+6922351234', '+692 1 235 1234'],
        ['+5491123456789', '+54 11 15 2345 6789'],
        ['+24174123456', '+241 074 12 34 56'],
      ] as const;
      await using t = await given();
      for (const [number, spelt] of pairs) {
        const form = normalise('phone', spelt);
        expect(form.ok && form.value.reveal()).toBe(number);
        await t.tell(number, { kind: 'phone', suppressed: ['sms'] });
      }
      await t.install();
      const rows = pairs.map(
        ([number, spelt], n) => `(${n}, '${number}', false), (${n + 10}, '${spelt}', false)`,
      );
      await t.place.query(`insert into contacts (id, phone, no_texts) values ${rows.join(', ')}`);
      expect((await t.states())[1]).toEqual(['no_texts', 'installed', 0, pairs.length]);
      expect((await t.contacts()).filter(([, , noTexts]) => noTexts)).toHaveLength(pairs.length);
    });

    test('what is no address as Abide reads them is counted as not recognised', async () => {
      await using t = await given({ contacts: CONTACTS.replaceAll('varchar', 'national character varying') });
      await t.tell('ada@example.com');
      await t.install();
      const tried = [
        'Ada <ada@example.com>',
        'mailto:ada@example.com',
        'ada@example.com;',
        '"ada"@example.com',
        'ada\u200b@example.com',
        'n/a',
        'ada+news@example.com',
        "o'neil_1%{x}@mail-1.example.com",
        'josé@example.com',
      ];
      const rows = tried.map((email, n) => `(${n}, '${email.replaceAll("'", "''")}', true)`);
      await t.place.query(`insert into contacts (id, email, may_mail) values ${rows.join(', ')}`);
      expect((await t.states())[0]).toEqual(['may_mail', 'installed', 0, 6]);
    });

    // Trimming by a pattern, and composing marks, take time that grows with the square of the length: one row of junk in a wide
    // column, from a sign-up form, held up an import for minutes.
    test('what is longer than any address is not looked at, and is counted as not recognised', async () => {
      await using t = await given({ contacts: CONTACTS.replace('email varchar(200)', 'email text') });
      await t.tell('ada@example.com');
      await t.install();
      await t.place.query(
        `insert into contacts (id, email, may_mail) values (1, '${'é'.repeat(2_000)}@example.com', true), (2, 'ada@example.com', true)`,
      );
      expect((await t.states())[0]).toEqual(['may_mail', 'installed', 0, 1]);
      expect((await t.contacts()).map(([, mayMail]) => mayMail)).toEqual([true, false]);
    });

    test('whoever imports needs no right on what the guard reads and writes', async () => {
      await using t = await given();
      await t.tell('ada@example.com');
      await t.install();
      const importing = await t.place.importer();
      await expect(importing('select 1 from suppressions')).rejects.toThrow();
      await importing("insert into contacts (id, email, may_mail) values (1, 'ada@example.com', true)");
      expect(await t.contacts()).toEqual([[1, false, null]]);
      expect(await t.logged()).toHaveLength(1);
    });

    test('odd names of tables and columns are taken as they are', async () => {
      const odd = connectorName === 'mysql' ? (name: string) => `\`${name}\`` : (name: string) => `"${name}"`;
      await using t = await given({
        contacts: `create table ${odd("Kunden d'or")} (id int primary key, ${odd('E-Mail')} varchar(200), ${odd('darf?')} boolean)`,
        guard: `\n      - { table: "Kunden d'or", key: E-Mail, may_send: { email: 'darf?' } }`,
      });
      await t.tell("o'neil@example.com");
      await t.install();
      await t.place.query(`insert into ${odd("Kunden d'or")} values (1, 'O''Neil@example.com', true)`);
      const [row] = await t.place.query(`select ${odd('darf?')} as may from ${odd("Kunden d'or")}`);
      expect(Boolean(row!['may'])).toBe(false);
      await t.remove();
    });

    test.each([
      [
        'a table that is not there',
        '[{ table: kontakte, key: email, may_send: { email: may_mail } }]',
        'There is no table kontakte.',
      ],
      [
        'a column that is not there',
        '[{ table: contacts, key: mail, may_send: { email: may_mail } }]',
        'Table contacts has no column mail.',
      ],
      [
        'a view',
        '[{ table: people, key: email, may_send: { email: may_mail } }]',
        'people is a view: name the table that its rows are written to.',
      ],
      [
        'a column that is not boolean',
        '[{ table: contacts, key: email, may_send: { email: remark } }]',
        /^Column remark of table contacts is .*: the guard sets columns that are boolean\.$/,
      ],
    ])('%s is refused by name, and nothing is made', async (_what, guard, message) => {
      await using t = await given({ guard: ` ${guard}` });
      await t.place.query('create view people as select * from contacts');
      await t.tell('ada@example.com');
      const before = await t.place.listing();
      await expect(t.install()).rejects.toThrow(message);
      expect(await t.place.listing()).toEqual(before);
    });

    // A trigger runs before a column is generated: PostgreSQL shows the column as null, and keeps nothing that is set there. The
    // guard was called installed, and held nobody.
    test('a column that the database makes is refused', async () => {
      const made = (what: string, of: string): string => `${what} generated always as (${of}) stored`;
      await using t = await given({
        contacts: `create table contacts (id int primary key, raw varchar(200), ${made('email varchar(200)', 'lower(raw)')}, ${made('may_mail boolean', 'id > 5')}, no_texts boolean)`,
        guard: ' [{ table: contacts, key: raw, may_send: { email: may_mail } }]',
      });
      await t.tell('ada@example.com');
      const before = await t.place.listing();
      await expect(t.install()).rejects.toThrow('Column may_mail of table contacts is generated');
      expect(await t.place.listing()).toEqual(before);

      await t.configure(' [{ table: contacts, key: email, suppressed: { email: no_texts } }]');
      if (connectorName === 'postgres')
        await expect(t.install()).rejects.toThrow('Column email of table contacts is generated');
      else {
        await t.install();
        await t.place.query("insert into contacts (id, raw, no_texts) values (1, 'Ada@example.com', false)");
        expect(await t.states()).toEqual([['no_texts', 'installed', 0, 0]]);
      }
    });

    test('a check of theirs that does not let a column be set is named by the installation', async () => {
      await using t = await given();
      await t.place.query(
        "alter table contacts add constraint reachable check (may_mail or not no_texts); insert into contacts (id, email, may_mail, no_texts) values (1, 'ada@example.com', true, true)",
      );
      await t.tell('ada@example.com');
      await expect(t.install()).rejects.toThrow(
        /^A check of yours does not let the guard set a column \(.*reachable.*\): /,
      );
    });

    test('before the store has its table, and for a role that may not, it says what is missing', async () => {
      await using t = await given();
      await expect(t.install()).rejects.toThrow('own table suppressions does not exist yet');
      await t.tell('ada@example.com');
      const reader = await t.place.reader();
      const before = await t.place.listing();
      await using restricted = await t.guard('crm', reader);
      await expect(restricted.run(await restricted.installing())).rejects.toThrow(/^Not allowed to this /);
      expect(await t.place.listing()).toEqual(before);
    });

    test('a store whose keys no trigger can make, or that has no guard, is refused', async () => {
      await using t = await given({ extra: 'key: { hmac: a secret of the tests }' });
      await expect(t.guard()).rejects.toMatchObject({
        code: 'invalid-value',
        message: expect.stringContaining('keyed by HMAC'),
      });
      await t.configure(' []', '');
      await expect(t.guard()).rejects.toThrow('has no guard in the configuration');
      await expect(t.guard('nobody')).rejects.toThrow('no store nobody, only crm, second');
    });
  });
}
