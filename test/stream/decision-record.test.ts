import { createServer } from 'node:http';
import type { ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, expect, test } from '@jest/globals';
import avro from 'avsc';
import { UnreadableRecord, createDecisionReader } from '../../stream/decision-record.ts';
import { DECISION_SCHEMA } from '../../stream/decision-schema.ts';
import { createSchemaFetch } from '../../stream/kafka-source.ts';

const string = (connectName: string) => ({
  type: 'string',
  'connect.version': 1,
  'connect.name': `io.debezium.data.${connectName}`,
});

/** As Debezium registered it in the first release; topics have records of it, which stay readable. */
const FIRST_WRITER = {
  type: 'record',
  name: 'Value',
  namespace: 'abide.public.decisions',
  'connect.name': 'abide.public.decisions.Value',
  fields: [
    { name: 'seq', type: 'long' },
    { name: 'id', type: string('Uuid') },
    { name: 'cause', type: 'string' },
    { name: 'opt_out_id', type: ['null', string('Uuid')], default: null },
    { name: 'subject_id', type: string('Uuid') },
    { name: 'kind', type: 'string' },
    { name: 'version', type: 'long' },
    { name: 'suppressed', type: string('Json') },
    { name: 'granted', type: string('Json') },
    { name: 'effective_at', type: string('ZonedTimestamp') },
    { name: 'recorded_at', type: string('ZonedTimestamp') },
    { name: 'sealed', type: ['null', 'bytes'], default: null },
    { name: 'transport_key_id', type: ['null', 'long'], default: null },
    { name: 'traceparent', type: ['null', 'string'], default: null },
    { name: '__op', type: ['null', 'string'], default: null },
    { name: '__lsn', type: ['null', 'long'], default: null },
    { name: '__source_ts_ms', type: ['null', 'long'], default: null },
  ],
};
type Writer = { type: string; name: string; namespace: string; fields: { name: string; type: unknown }[] };

const SEALED = Buffer.from([1, 2, 3, 250]);
const ROW = {
  seq: 42,
  id: '0199a5c4-0000-7000-8000-000000000001',
  cause: 'opt_out',
  opt_out_id: '0199a5c4-0000-7000-8000-000000000002',
  subject_id: '0199a5c4-0000-7000-8000-000000000003',
  kind: 'email',
  version: 7,
  suppressed: '{"email": "2026-11-24T09:00:00.000Z"}',
  granted: '{}',
  effective_at: '2026-11-24T09:00:00.000000Z',
  recorded_at: '2026-11-24T09:00:01.123456Z',
  sealed: SEALED,
  transport_key_id: 3,
  traceparent: null,
  __op: 'c',
  __lsn: 1,
  __source_ts_ms: 2,
};

function frame(body: Buffer, id = 5): Buffer {
  const head = Buffer.alloc(5);
  head.writeInt32BE(id, 1);
  return Buffer.concat([head, body]);
}
const typeOf = (schema: object): avro.Type => avro.Type.forSchema(schema as avro.Schema);
const without = (name: string): Writer => ({
  ...(FIRST_WRITER as Writer),
  fields: (FIRST_WRITER as Writer).fields.filter((field) => field.name !== name),
});
const reading = (schema: object | undefined) => createDecisionReader(() => Promise.resolve(schema));
const written = (schema: object, row: object = ROW): Buffer => frame(typeOf(schema).toBuffer(row));

describe('a record of the topic', () => {
  test('written by the first release stays readable, with all that it says', async () => {
    const decision = await reading(FIRST_WRITER)(written(FIRST_WRITER));

    expect(decision).toEqual({
      seq: 42,
      optOutId: ROW.opt_out_id,
      subjectId: ROW.subject_id,
      kind: 'email',
      version: 7,
      suppressed: { email: '2026-11-24T09:00:00.000Z' },
      granted: {},
      effectiveAt: '2026-11-24T09:00:00.000Z',
      recordedAt: '2026-11-24T09:00:01.123Z',
      sealed: SEALED.toString('base64url'),
      transportKeyId: 3,
      traceparent: undefined,
    });
  });

  test.each(['seq', 'subject_id', 'kind', 'version', 'suppressed', 'granted', 'effective_at', 'sealed'])(
    'whose schema lacks %s is not read: no default stands in for what was decided',
    async (name) => {
      const schema = without(name);

      await expect(async () => await reading(schema)(written(schema))).rejects.toMatchObject({
        name: 'UnreadableRecord',
        code: 'SCHEMA_INCOMPATIBLE',
      });
    },
  );

  test('with a column that this version does not know is read without it', async () => {
    const later = { ...FIRST_WRITER, fields: [...FIRST_WRITER.fields, { name: 'later', type: 'string' }] };

    expect(await reading(later)(written(later, { ...ROW, later: 'x' }))).toMatchObject({ seq: 42 });
  });

  test.each([
    ['a tombstone', null, 'EMPTY'],
    ['something unframed', Buffer.from('{"seq":1}'), 'NOT_FRAMED'],
    ['a frame without an id', Buffer.from([0, 1]), 'NOT_FRAMED'],
    ['a body that is cut short', written(FIRST_WRITER).subarray(0, 30), 'NOT_READABLE'],
    ['a kind that nobody knows', written(FIRST_WRITER, { ...ROW, kind: 'fax' }), 'NOT_READABLE'],
    ['JSON that is none', written(FIRST_WRITER, { ...ROW, suppressed: '{' }), 'NOT_READABLE'],
  ])('that is %s is refused, and its bytes are not in the message', async (_, value, code) => {
    await expect(async () => await reading(FIRST_WRITER)(value)).rejects.toMatchObject({
      code,
      message: `A record cannot be read: ${code}.`,
    });
  });

  test('with a number beyond 2^53 is refused rather than rounded', async () => {
    const long = avro.types.LongType.__with({
      fromBuffer: (buffer: Buffer) => buffer.readBigInt64LE(),
      toBuffer: (value: bigint | number) => {
        const buffer = Buffer.alloc(8);
        buffer.writeBigInt64LE(BigInt(value));
        return buffer;
      },
      fromJSON: BigInt,
      toJSON: Number,
      isValid: (value: unknown) => typeof value === 'bigint' || typeof value === 'number',
      compare: (one: bigint, other: bigint) => (one === other ? 0 : one < other ? -1 : 1),
    });
    const writer = avro.Type.forSchema(FIRST_WRITER as unknown as avro.Schema, { registry: { long } });
    const value = frame(writer.toBuffer({ ...ROW, version: 2n ** 53n + 1n }));

    await expect(async () => await reading(FIRST_WRITER)(value)).rejects.toMatchObject({
      code: 'NOT_READABLE',
    });
  });

  test('whose schema the registry does not know is refused; one that does not answer is asked again', async () => {
    await expect(async () => await reading(undefined)(written(FIRST_WRITER))).rejects.toMatchObject({
      code: 'SCHEMA_UNKNOWN',
    });
    let isAway = true;
    const read = createDecisionReader(() =>
      isAway ? Promise.reject(new Error('away')) : Promise.resolve(FIRST_WRITER),
    );
    const refused = await Promise.resolve(read(written(FIRST_WRITER))).catch((error: unknown) => error);
    isAway = false;

    expect(refused).not.toBeInstanceOf(UnreadableRecord);
    expect(await read(written(FIRST_WRITER))).toMatchObject({ seq: 42 });
  });

  test('of one writer asks the registry once', async () => {
    let asked = 0;
    const read = createDecisionReader(() => {
      asked += 1;
      return Promise.resolve(FIRST_WRITER);
    });
    await Promise.all([read(written(FIRST_WRITER)), read(written(FIRST_WRITER))]);
    await read(written(FIRST_WRITER));

    expect(asked).toBe(1);
  });
});

describe('the schema by which records are read', () => {
  /** What the first release cannot do without; a later field is never added here. */
  const REQUIRED = {
    seq: 'long',
    opt_out_id: ['null', 'string'],
    subject_id: 'string',
    kind: 'string',
    version: 'long',
    suppressed: 'string',
    granted: 'string',
    effective_at: 'string',
    recorded_at: 'string',
    sealed: ['null', 'bytes'],
    transport_key_id: ['null', 'long'],
  };

  test('keeps every field of the first release, with its type and without a default', () => {
    const kept = DECISION_SCHEMA.fields.filter((field) => field.name in REQUIRED);

    expect(Object.fromEntries(kept.map(({ name, type }) => [name, type]))).toEqual(REQUIRED);
    expect(kept.filter((field) => 'default' in field)).toEqual([]);
  });

  test('gives every later field a default', () => {
    const later = DECISION_SCHEMA.fields.filter(({ name }) => !(name in REQUIRED));

    expect(later.filter((field) => !('default' in field))).toEqual([]);
  });
});

// After one answer that hung or was cut off, that schema could not be had for as long as the process lived, and the stream was
// down.
test.each([
  ['hangs', () => undefined],
  ['is cut in its middle', (response: ServerResponse) => response.write('{', () => response.destroy())],
  ['does not end', (response: ServerResponse) => void response.write('{')],
])('a registry of which one answer %s is asked anew, and its line is let go', async (_, fault) => {
  let asked = 0;
  const registry = createServer((_request, response) => {
    asked += 1;
    if (asked === 1) fault(response);
    else response.end(JSON.stringify({ schema: JSON.stringify(FIRST_WRITER) }));
  });
  await new Promise<void>((resolve) => registry.listen(0, '127.0.0.1', resolve));
  try {
    const { port } = registry.address() as AddressInfo;
    const fetchSchema = createSchemaFetch(`http://127.0.0.1:${port}`, { msMax: 200 });

    await expect(fetchSchema(5)).rejects.toThrow('the registry does not answer');
    expect(await fetchSchema(5)).toMatchObject({ name: 'abide.public.decisions.Value' });
  } finally {
    // It ends only once nobody is connected.
    await new Promise((resolve) => registry.close(resolve));
  }
});
