// Replaces the pepper, by which people are found. What finds each of them is made anew from the sealed address; whoever was erased
// has none, and is found by the old pepper for ever (key-ring.ts).
//
// From the moment at which the new pepper is in use, a process that has an older ring finds nobody and is told so by the database
// (migration 0016): its calls fail, and none says "send". Processes that have the new ring go on meanwhile, since they look for each
// person under every pepper. So the work may be interrupted anywhere, and is finished by doing it again.
import { AbideError } from '../suppression/errors.ts';
import { Address } from '../suppression/subject.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { audit } from './audit.ts';
import type { Caller } from './contract/audit.ts';
import { BEFORE_EVERY_ID, inTransaction, isLockTimeout, isRace } from './database.ts';
import type { Pool } from './database.ts';
import { addKey, keepChecks, lockRing, matchKeyRing, readKeyRing } from './key-ring.ts';
import type { KeyRing } from './key-ring.ts';

const AT_ONCE = 1_000;
const TRIES = 5;

export type PepperReplaced = {
  readonly keyId: number;
  /** False: the pepper was in use, and people were left from an earlier replacement. */
  readonly isNew: boolean;
  /** People who are found by the new pepper and were not before. */
  readonly moved: number;
  /** People who are found by an older one, since they were erased or their address cannot be opened. */
  readonly erased: number;
  readonly unreadable: number;
};

/**
 * Brings the ring's newest pepper into use, if the database does not use it yet, and moves everybody to it. If there is none to bring
 * into use and nobody to be moved, it adds one, and `keep` is given the ring with it: if that returns true, the ring is safe and the
 * work goes on; otherwise nothing else happens, and the result is undefined. As the owner of the tables; throws as matchKeyRing
 * does, and `overloaded` if recording leaves no gap or somebody else replaces it as well.
 */
export async function replacePepper(
  owner: Pool,
  {
    read,
    keep,
    caller,
    onSeen = () => undefined,
    signal,
  }: {
    read: () => string | undefined;
    keep: (text: string) => boolean;
    caller: Caller;
    onSeen?: (people: number) => void;
    signal?: AbortSignal;
  },
): Promise<PepperReplaced | undefined> {
  const before = await matchKeyRing(owner, { read });
  if (readKeyRing(read()!).pepperId === before.pepperId) {
    const walked = await moveEverybody(owner, before, onSeen, signal);
    if (walked.moved > 0) return { keyId: before.pepperId, isNew: false, ...walked };
  }
  const ring = await bringIntoUse(owner, before, { read: () => read()!, keep, caller });
  if (ring === undefined) return undefined;
  return { keyId: ring.pepperId, isNew: true, ...(await moveEverybody(owner, ring, onSeen, signal)) };
}

/**
 * Nobody records meanwhile: whoever looked for a person under the old pepper has written by then, and whoever looks after this is
 * told of the new one. Otherwise two processes could make the same person twice.
 */
async function bringIntoUse(
  owner: Pool,
  before: KeyRing,
  { read, keep, caller }: { read: () => string; keep: (text: string) => boolean; caller: Caller },
): Promise<KeyRing | undefined> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await inTransaction(owner, async (client) => {
        await lockRing(client);
        const { rows } = await client.query<{ newest: number }>(
          "select max(key_id) as newest from key_checks where purpose = 'pepper'",
        );
        if (rows[0]!.newest !== before.pepperId)
          throw new AbideError('overloaded', 'Somebody else is replacing the pepper: look at what they did.');
        let text = read();
        if (readKeyRing(text).pepperId === before.pepperId) {
          text = addKey(text, 'pepper').text;
          if (!keep(text)) return undefined;
        }
        const ring = readKeyRing(text);
        await client.query("set local lock_timeout = '5s'");
        await client.query('lock table subjects in exclusive mode');
        await keepChecks(client, ring);
        await audit(client, caller, 'key_ring.rotated', `pepper key ${ring.pepperId}`, {});
        return ring;
      });
    } catch (error) {
      if (!isLockTimeout(error) && !isRace(error)) throw error;
      if (tries === TRIES)
        throw new AbideError('overloaded', 'Recording left no gap: stop every Abide, or try again later.', {
          cause: error,
        });
    }
  }
}

type Walked = Pick<PepperReplaced, 'moved' | 'erased' | 'unreadable'>;
type Row = { id: string; kind: SubjectKind; is_older: boolean; match_key: Buffer; sealed: Buffer | null };

/** In pages, each a moment's work, however many people there are. */
async function moveEverybody(
  owner: Pool,
  ring: KeyRing,
  onSeen: (people: number) => void,
  signal: AbortSignal | undefined,
): Promise<Walked> {
  let [seen, moved, erased, unreadable] = [0, 0, 0, 0];
  for (let after = BEFORE_EVERY_ID; ;) {
    signal?.throwIfAborted();
    const { rows } = await owner.query<Row>({
      name: 'pepper-page',
      text: `select id, kind, pepper_id <> $2 as is_older, case when pepper_id <> $2 then match_key end as match_key,
               case when pepper_id <> $2 then sealed end as sealed
             from subjects where id > $1 order by id limit ${AT_ONCE}`,
      values: [after, ring.pepperId],
    });
    if (rows.length === 0) return { moved, erased, unreadable };
    const left = rows.filter((row) => row.is_older);
    const found = left.flatMap((row) => keyOf(ring, row) ?? []);
    if (found.length > 0) await move(owner, ring, found);
    moved += found.length;
    erased += left.filter(({ sealed }) => sealed === null).length;
    unreadable += left.filter(({ sealed }) => sealed !== null).length - found.length;
    seen += rows.length;
    after = rows.at(-1)!.id;
    onSeen(seen);
  }
}

/** Recordings lock people in another order. */
async function move(owner: Pool, ring: KeyRing, found: readonly object[]): Promise<void> {
  for (let tries = 1; ; tries += 1) {
    try {
      await owner.query({
        name: 'pepper-move',
        text: `update subjects s set match_key = x.match_key, pepper_id = $2
               from json_to_recordset($1) as x (id uuid, match_key bytea) where s.id = x.id`,
        values: [JSON.stringify(found), ring.pepperId],
      });
      return;
    } catch (error) {
      if (!isRace(error) || tries === TRIES) throw error;
    }
  }
}

/** Undefined if there is no address, it cannot be opened, or it is not the one by which the person is found now. */
function keyOf(
  ring: KeyRing,
  { id, kind, match_key: found, sealed }: Row,
): { id: string; match_key: string } | undefined {
  if (sealed === null) return undefined;
  let address: string;
  try {
    address = ring.unseal(sealed, [id, kind]);
  } catch {
    return undefined;
  }
  const [current, ...older] = ring.matchKeys({ kind, value: new Address(address) });
  if (!older.some((one) => one.equals(found))) return undefined;
  return { id, match_key: `\\x${current.toString('hex')}` };
}
