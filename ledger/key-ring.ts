// The key ring: what makes match keys (pepper), seals addresses at rest (storage) and signs receipts (signing). A ring belongs
// to its database: another pepper over old data would answer every check with "send", so the database keeps a check value of every
// key in use, and a ring that lacks one does not start.
//
// Storage and signing keys are rotated: a new one is added, and the old ones stay: they open what was sealed, and what they signed
// is checked with them. A new key is used from a time by which every process must have the ring, since no process can read what it
// has no key for, nor name the key that a receipt was signed by. A pepper is replaced at once and for everybody (replace-pepper.ts),
// and those before it stay: who was erased is found by them for ever.
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { z } from 'zod';
import type { Instant } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';
import { open, openBytes, seal, sealedWith } from '../suppression/seal.ts';
import type { SealContext, SealingKey } from '../suppression/seal.ts';
import type { Subject } from '../suppression/subject.ts';
import { audit } from './audit.ts';
import type { Caller } from './contract/audit.ts';
import type { Signing } from './contract/signing.ts';
import { inTransaction } from './database.ts';
import type { Client, Pool } from './database.ts';
import { toSigningKey } from './signing-key.ts';

const PURPOSES = ['pepper', 'storage', 'signing'] as const;
type Purpose = (typeof PURPOSES)[number];
/** What is rotated beside running processes. */
export type RotatedPurpose = Exclude<Purpose, 'pepper'>;

const Ring = z.object({
  keys: z
    .array(
      z.object({
        id: z.int().min(1).max(0xffffffff),
        purpose: z.enum(PURPOSES),
        secret: z.base64().refine((text) => Buffer.from(text, 'base64').length === 32, 'must be 32 bytes'),
        use_from: z.iso.datetime().optional(),
      }),
    )
    .min(3),
});

/** Under the pepper in use, and then under each that was in use before. */
export type UnderEachPepper = readonly [current: Buffer, ...older: Buffer[]];

export type KeyRing = {
  /** HMAC-SHA-256 (pepper, kind ‖ 0x00 ‖ normal form). */
  matchKeys(subject: Subject): UnderEachPepper;
  /** HMAC under the pepper of anything that must be recognisable but not readable; the label keeps uses apart. */
  fingerprints(label: string, text: string): UnderEachPepper;
  seal(content: string | Buffer, context: SealContext): Buffer;
  unseal(envelope: Buffer, context: SealContext): string;
  unsealBytes(envelope: Buffer, context: SealContext): Buffer;
  readonly signing: Signing;
  readonly pepperId: number;
  /** Identifies the ring, for the database's check. */
  readonly checks: readonly { readonly keyId: number; readonly purpose: Purpose; readonly value: Buffer }[];
};

/**
 * Undefined if the envelope was damaged, for whoever reads many: one such row must not withhold its neighbours. A key that the ring
 * lacks is no damage, and throws KEYS_MISSING.
 */
export function unsealUndamaged(ring: KeyRing, envelope: Buffer, context: SealContext): string | undefined {
  try {
    return ring.unseal(envelope, context);
  } catch (error) {
    if (error instanceof AbideError && error.code === 'SEALED_UNREADABLE') return undefined;
    throw error;
  }
}

/** A new ring's text, to be kept in a 0600 file or handed over as ABIDE_KEYS. */
export function makeKeyRing(): string {
  const keys = PURPOSES.map((purpose, n) => ({
    id: n + 1,
    purpose,
    secret: randomBytes(32).toString('base64'),
  }));
  return `${JSON.stringify({ keys }, null, 2)}\n`;
}

function parseRing(text: string): z.infer<typeof Ring> {
  try {
    return Ring.parse(JSON.parse(text));
  } catch {
    throw new AbideError(
      'KEYS_INVALID',
      'The key ring is not a list of keys with id, purpose and a 32-byte secret.',
    );
  }
}

/** The ring's text with one more key, which is used from `useFrom` on. Throws KEYS_INVALID. */
export function addKey(text: string, purpose: Purpose, useFrom?: Instant): { text: string; id: number } {
  readKeyRing(text);
  const { keys } = parseRing(text);
  const id = Math.max(...keys.map((key) => key.id)) + 1;
  const added = { id, purpose, secret: randomBytes(32).toString('base64'), use_from: useFrom };
  return { text: `${JSON.stringify({ keys: [...keys, added] }, null, 2)}\n`, id };
}

/**
 * Reads a ring's text. The key in use for a purpose is the one with the highest id whose time has come; a pepper above
 * `pepperThrough` is as if it was not there. Throws KEYS_INVALID, never with a secret in it.
 */
export function readKeyRing(text: string, { pepperThrough = Infinity } = {}): KeyRing {
  const keys = parseRing(text)
    .keys.filter(({ purpose, id }) => purpose !== 'pepper' || id <= pepperThrough)
    .map(({ id, purpose, secret, use_from: useFrom }) => ({
      id,
      purpose,
      secret: Buffer.from(secret, 'base64'),
      useFromMs: useFrom === undefined ? 0 : Date.parse(useFrom),
    }));
  const newestFirst = (purpose: Purpose) =>
    keys.filter((one) => one.purpose === purpose).sort((a, b) => b.id - a.id);
  const inUse = <Key extends { useFromMs: number }>(purpose: Purpose, its: readonly Key[]): (() => Key) => {
    if (!its.some((key) => key.useFromMs <= Date.now()))
      throw new AbideError('KEYS_INVALID', `The key ring has no ${purpose} key.`);
    return () => its.find((key) => key.useFromMs <= Date.now())!;
  };
  const pepper = inUse('pepper', newestFirst('pepper'))();
  const olderPeppers = keys.filter((one) => one.purpose === 'pepper' && one !== pepper);
  const storage = inUse('storage', newestFirst('storage'));
  const signingKeys = newestFirst('signing').map((key) => ({
    ...toSigningKey(key.secret),
    useFromMs: key.useFromMs,
  }));
  const storageKeyOf = (envelope: Buffer): SealingKey => {
    const id = sealedWith(envelope);
    const key = keys.find((one) => one.purpose === 'storage' && one.id === id);
    if (key === undefined) throw new AbideError('KEYS_MISSING', `The key ring lacks storage key ${id}.`);
    return key;
  };
  const hmac = ({ secret }: SealingKey, label: string, text: string): Buffer =>
    createHmac('sha256', secret).update(`${label}\0${text}`).digest();
  const fingerprints = (label: string, text: string): UnderEachPepper => [
    hmac(pepper, label, text),
    ...olderPeppers.map((older) => hmac(older, label, text)),
  ];
  return {
    matchKeys: ({ kind, value }) => fingerprints(kind, value.reveal()),
    fingerprints,
    seal: (content, context) => seal(content, storage(), context),
    unseal: (envelope, context) => open(envelope, storageKeyOf(envelope), context),
    unsealBytes: (envelope, context) => openBytes(envelope, storageKeyOf(envelope), context),
    signing: {
      current: inUse('signing', signingKeys),
      publicKeys: signingKeys.map(({ publicKey }) => publicKey),
    },
    pepperId: pepper.id,
    checks: keys.map(({ id, purpose, secret }) => ({
      keyId: id,
      purpose,
      value: createHmac('sha256', secret).update(`abide key check\0${purpose}\0${id}`).digest(),
    })),
  };
}

/**
 * Brings ring and database together. `read` is told whether the database is empty, and gives the ring's text, or undefined if there
 * is none; `make` keeps a new one and is called only for an empty database; without `make` an empty one is refused. A pepper that the
 * ring has and the database does not use yet is left out. Throws KEYS_MISSING naming the ids that the ring lacks.
 */
export async function matchKeyRing(
  pool: Pool,
  {
    read,
    make = refuseEmpty,
  }: { read: (isEmpty: boolean) => string | undefined; make?: (text: string) => void },
): Promise<KeyRing> {
  return await inTransaction(pool, async (client) => {
    await lockRing(client);
    const { rows } = await client.query<{ key_id: number; purpose: Purpose; check_value: Buffer }>(
      'select key_id, purpose, check_value from key_checks order by purpose, key_id',
    );
    let text = read(rows.length === 0);
    if (text === undefined) {
      if (rows.length > 0) throw missing(rows);
      text = makeKeyRing();
      make(text);
    }
    const peppers = rows.filter(({ purpose }) => purpose === 'pepper').map(({ key_id: id }) => id);
    const ring = readKeyRing(text, peppers.length === 0 ? {} : { pepperThrough: Math.max(...peppers) });
    const lacking = rows.filter(
      (row) =>
        !ring.checks.some(
          (check) =>
            check.keyId === row.key_id &&
            check.purpose === row.purpose &&
            timingSafeEqual(check.value, row.check_value),
        ),
    );
    if (lacking.length > 0) throw missing(lacking);
    await keepChecks(client, ring);
    return ring;
  });
}

/** From here on the database does not begin with a ring that lacks one of these keys. */
export async function keepChecks(client: Client, ring: KeyRing): Promise<void> {
  for (const { keyId, purpose, value } of ring.checks)
    await client.query(
      'insert into key_checks (key_id, purpose, check_value) values ($1, $2, $3) on conflict do nothing',
      [keyId, purpose, value],
    );
}

/**
 * Adds a key, which is in use from `useFrom` on, to the ring of `read` and gives the result to `keep`. Nothing in the database
 * needs that key yet: if it is lost before a process has started with it, or a command has read it, the previous ring is as good as
 * it was.
 */
export async function rotateKeyOfRing(
  pool: Pool,
  {
    purpose,
    read,
    keep,
    useFrom,
    caller,
  }: {
    purpose: RotatedPurpose;
    read: () => string;
    keep: (text: string) => void;
    useFrom: Instant;
    caller: Caller;
  },
): Promise<number> {
  return await inTransaction(pool, async (client) => {
    await lockRing(client);
    const { text, id } = addKey(read(), purpose, useFrom);
    await audit(client, caller, 'key_ring.rotated', `${purpose} key ${id}`, { use_from: useFrom });
    keep(text);
    return id;
  });
}

function refuseEmpty(): never {
  throw new AbideError('KEYS_MISSING', 'The database is empty: no Abide has started on it yet.');
}

export const lockRing = (client: Client) =>
  client.query("select pg_advisory_xact_lock(hashtext('abide.key_ring'))");

const missing = (rows: readonly { key_id: number; purpose: Purpose }[]): AbideError =>
  new AbideError(
    'KEYS_MISSING',
    `The key ring lacks ${rows.map((row) => `${row.purpose} key ${row.key_id}`).join(', ')}, which this database uses.`,
  );
