// A store that lies on demand, for the tests of the checker: named in abide.yaml by its path. A file beside its own says which lie
// it tells, so that one running Abide meets them all.
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { z } from 'zod';
import { defineConnector } from '../../connectors/contract/connector.ts';
import type { Held, Item, SubjectKey } from '../../connectors/contract/connector.ts';

export const LIES = [
  'none',
  /** It says that it wrote, writes nothing, and reads back what it was told: as if nobody read back at all. */
  'says_applied',
  /** It compares no versions, and some time after something newer it is told again what it was first told of somebody. */
  'no_compare_and_set',
] as const;
export type Lie = (typeof LIES)[number];

type Rows = Record<string, { version: number; scopes: string[] }>;

export const readRows = (file: string): Rows => JSON.parse(readFileSync(file, 'utf8')) as Rows;

const HEARD_AGAIN_MS = 300;

const nameOf = ({ kind, key }: SubjectKey): string => `${kind}:${key}`;
const toRow = ({ version, suppressed }: Item): Rows[string] => ({ version, scopes: Object.keys(suppressed) });
const toHeld = (row: Rows[string] | undefined): Held | undefined =>
  row && { version: row.version, suppressed: row.scopes };

export default defineConnector({
  options: z.object({ file: z.string().describe('The JSON file; what lie to tell stands in FILE.lie') }),
  accepts: ['email', 'phone', 'push_token', 'person_id'],
  topics: false,
  versions: 'stored',
  remembersUnknown: true,
  evidence: 'read_back',
  limits: { batch: 500, concurrent: 1 },
  target: ({ file }) => [file],

  open({ file }) {
    const told: Rows = {};
    const first = new Map<string, Item>();
    const lie = (): Lie => readFileSync(`${file}.lie`, 'utf8') as Lie;
    const write = (items: readonly Item[], compares: boolean): void => {
      const rows = readRows(file);
      for (const item of items) {
        const held = rows[nameOf(item)];
        if (!compares || held === undefined || held.version <= item.version) rows[nameOf(item)] = toRow(item);
      }
      writeFileSync(`${file}.new`, JSON.stringify(rows));
      renameSync(`${file}.new`, file);
    };
    return Promise.resolve({
      apply(items) {
        for (const item of items) {
          told[nameOf(item)] = toRow(item);
          if (!first.has(nameOf(item))) first.set(nameOf(item), item);
        }
        const tells = lie();
        if (tells !== 'says_applied') write(items, tells === 'none');
        const older = items.map((item) => first.get(nameOf(item))!).filter((item) => !items.includes(item));
        if (tells === 'no_compare_and_set' && older.length > 0)
          setTimeout(() => write(older, false), HEARD_AGAIN_MS);
        return Promise.resolve(items.map(() => ({ kind: 'applied' as const })));
      },
      readBack(keys) {
        const rows = lie() === 'says_applied' ? told : readRows(file);
        return Promise.resolve(keys.map((key) => toHeld(rows[nameOf(key)])));
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    });
  },
});
