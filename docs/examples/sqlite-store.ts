// A store of one's own, in one file: suppressions in SQLite. In abide.yaml, by its path:
//
//   legacy: { connector: ./sqlite-store.ts, file: /var/lib/legacy/suppressions.db, scopes: [email, sms] }
//
// The legacy system asks, before it sends:
//
//   select scopes ->> '$.email' from suppressions where kind = 'email' and key = 'ada@example.com'
//
// and does not send where that is 1 (0: lifted by the person; null: never told).
import { accessSync, constants, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { defineConnector } from 'abide/connector';
import type { ApplyOutcome, Held, Item } from 'abide/connector';
import { z } from 'zod';

const TABLE = `
  create table if not exists suppressions (
    kind text not null,
    key text not null,
    version integer,
    scopes text not null default '{}',
    primary key (kind, key)
  ) strict, without rowid`;

type Row = { version: number | null; scopes: string };
type Scopes = Record<string, boolean>;

const toHeld = ({ version, scopes }: Row): Held => {
  const held = JSON.parse(scopes) as Scopes;
  return { version: version ?? undefined, suppressed: Object.keys(held).filter((scope) => held[scope]) };
};

export default defineConnector({
  options: z.object({ file: z.string().describe('The SQLite file, made by the first write if absent') }),
  accepts: ['email', 'phone', 'push_token', 'person_id'],
  topics: true,
  versions: 'stored',
  remembersUnknown: true,
  evidence: 'read_back',
  limits: { batch: 500, concurrent: 1 },

  target: ({ file }) => [resolve(file)],

  open({ file }) {
    // `abide config check` opens a store and reads one person back, which should change nothing: the first write makes file and
    // table. Where it could not, that is said now.
    accessSync(dirname(file), constants.W_OK);
    let writer: DatabaseSync | undefined;
    let reader: DatabaseSync | undefined;
    // SQLite answers in this thread; a writer that is in the way is waited for no longer than a second.
    const connect = () => new DatabaseSync(file, { timeout: 1_000 });

    function close(): void {
      for (const database of [reader, writer]) if (database?.isOpen) database.close();
      reader = writer = undefined;
    }
    let place: string | undefined;
    /**
     * A connection stays with the file that it opened, even if another was put in its place, such as a restored copy: nobody else
     * would read what is written there. Looked at before it is opened: what is put there in between is noticed the next time.
     */
    function followFile(): void {
      const found = statSync(file, { throwIfNoEntry: false });
      const now = found && `${found.dev}:${found.ino}`;
      if (now !== place) close();
      place = now;
    }

    function writing(): DatabaseSync {
      followFile();
      writer ??= connect();
      writer.exec(`pragma journal_mode = wal; pragma synchronous = full; ${TABLE}`);
      return writer;
    }
    /** What is read back is read by another connection, so that it was committed. Undefined: nobody has written yet. */
    function reading(): DatabaseSync | undefined {
      followFile();
      if (place !== undefined) reader ??= connect();
      const table = reader?.prepare("select 1 from sqlite_schema where name = 'suppressions'").get();
      return table && reader;
    }

    const find = 'select version, scopes from suppressions where kind = ? and key = ?';
    const replace = 'replace into suppressions (kind, key, version, scopes) values (?, ?, ?, ?)';
    const list =
      'select kind, key, version, scopes from suppressions where (kind, key) > (?, ?) order by kind, key limit 1000';

    /** Never older over newer; an equal version suppresses again and lifts nothing; other scopes stay as they are. */
    function applyOne(database: DatabaseSync, item: Item): ApplyOutcome {
      const { kind, key, version, suppressed, granted } = item;
      if (key === '') return { kind: 'refused', code: 'KEY_EMPTY' };
      const row = database.prepare(find).get(kind, key) as Row | undefined;
      const held = row?.version ?? 0;
      if (version < held) return { kind: 'already_newer' };
      const scopes = JSON.parse(row?.scopes ?? '{}') as Scopes;
      for (const [scope, grant] of Object.entries(granted)) if (held < grant.version) scopes[scope] = false;
      for (const scope of Object.keys(suppressed)) scopes[scope] = true;
      database.prepare(replace).run(kind, key, version, JSON.stringify(scopes));
      return { kind: 'applied' };
    }

    return Promise.resolve({
      apply: (batch, signal) =>
        Promise.try(() => {
          signal.throwIfAborted();
          const database = writing();
          // Takes the write lock first: what is compared cannot change before it is set.
          database.exec('begin immediate');
          try {
            const outcomes = batch.map((item) => applyOne(database, item));
            database.exec('commit');
            return outcomes;
          } catch (error) {
            database.exec('rollback');
            throw error;
          }
        }),
      readBack: (keys, signal) =>
        Promise.try(() => {
          signal.throwIfAborted();
          const lookUp = reading()?.prepare(find);
          return keys.map(({ kind, key }) => {
            const row = lookUp?.get(kind, key) as Row | undefined;
            return row && toHeld(row);
          });
        }),
      // Another file in its place is another store, which is filled anew.
      incarnation: (signal) =>
        Promise.try(() => {
          signal.throwIfAborted();
          return reading() === undefined ? null : String(statSync(file).ino);
        }),
      scan: (after, signal) =>
        Promise.try(() => {
          signal.throwIfAborted();
          const rows = reading()
            ?.prepare(list)
            .all(after?.kind ?? '', after?.key ?? '') as (Row & Pick<Item, 'kind' | 'key'>)[] | undefined;
          return (rows ?? []).map((row) => ({ kind: row.kind, key: row.key, held: toHeld(row) }));
        }),
      [Symbol.asyncDispose]: () => Promise.try(close),
    });
  },
});
