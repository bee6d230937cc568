import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describeConnector } from 'abide/conformance';
import type { Place } from 'abide/conformance';
import connector from '../../docs/examples/sqlite-store.ts';

const fileOf = (place: Place): string => (place.options as { file: string }).file;

describeConnector('sqlite-store', {
  connector,
  async open() {
    const folder = await mkdtemp(join(tmpdir(), 'sqlite-store-'));
    return {
      options: { file: join(folder, 'suppressions.db') },
      [Symbol.asyncDispose]: () => rm(folder, { recursive: true }),
    };
  },
  byItself(place, { kind, key }, scope, isSuppressed) {
    using database = new DatabaseSync(fileOf(place));
    database
      .prepare(
        `insert into suppressions (kind, key, scopes) values (?, ?, json_object(?, json(?)))
         on conflict (kind, key) do update set scopes = json_patch(scopes, excluded.scopes)`,
      )
      .run(kind, key, scope, String(isSuppressed));
    return Promise.resolve();
  },
  badKey: () => Promise.resolve(''),
});
