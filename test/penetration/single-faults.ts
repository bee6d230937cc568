// One thing wrong with a good call, according to its document: every way to spoil it that a schema would notice.
import type { JsonSchema, OpenApi } from '../../api/public/openapi.ts';
import { resolved } from './good-calls.ts';
import type { Call, Json, Members } from './good-calls.ts';

/** A request as it goes over the wire. */
export type Sent = {
  readonly method: Call['method'];
  readonly target: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | undefined;
};

/** `bySchema`: the fault is in the body, which is still JSON. */
export type Fault = { readonly what: string; readonly sent: () => Sent; readonly bySchema?: true };

export const write = ({ method, path, params, query, headers, body }: Call): Sent => ({
  method,
  target: `${path.replaceAll(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(params[name]!))}?${new URLSearchParams(query).toString()}`,
  headers: body === undefined ? headers : { ...headers, 'content-type': 'application/json' },
  body: body === undefined ? undefined : JSON.stringify(body),
});

/** A value of every type, to be used where that type is not taken. */
const OF_TYPE: readonly (readonly [type: string, value: Json])[] = [
  ['null', null],
  ['boolean', true],
  ['integer', 7],
  ['number', 0.5],
  ['string', 'x'],
  ['array', []],
  ['object', {}],
];

/** Texts that are no value of the schema. */
function wrongTexts(schema: JsonSchema): string[] {
  const { enum: values, const: only, format, pattern, minLength, maxLength } = schema;
  if (Array.isArray(values) || typeof only === 'string')
    return ['no such', '', `${String((values as unknown[] | undefined)?.[0] ?? only)} `];
  if (format === 'uuid') return ['', 'x', '01990000-0000-7000-8000', '01990000-0000-7000-8000-00000000000g'];
  if (format === 'date-time')
    return [
      '',
      'yesterday',
      '2026-11-24',
      '2026-11-24T09:00:00',
      '2026-02-30T09:00:00Z',
      '2026-11-24T25:00:00Z',
      '1764000000',
      'Nov 24 2026 09:00:00Z',
    ];
  if (typeof pattern === 'string') {
    const form = new RegExp(pattern);
    return ['', ' ', 'é', 'UPPER lower', 'a\n', '1', '-', '🙂', 'x'.repeat(5_000)].filter(
      (text) => !form.test(text),
    );
  }
  return [
    ...(typeof minLength === 'number' && minLength > 0 ? [''] : []),
    ...(typeof maxLength === 'number' ? ['x'.repeat(maxLength + 1)] : []),
  ];
}

const withMember = (value: Members, name: string, member: Json): Members =>
  // A literal would set the prototype instead of naming a member.
  Object.fromEntries([...Object.entries(value).filter(([own]) => own !== name), [name, member]]);

type Spoilt = readonly [what: string, body: () => Json];

function* spoilt(
  document: OpenApi,
  named: JsonSchema,
  value: Json,
  at = '',
  within = (one: Json): Json => one,
): Generator<Spoilt> {
  const schema = resolved(named, document);
  const instead = (what: string, one: () => Json): Spoilt => [`${at || '/'} ${what}`, () => within(one())];
  const taken = ((schema['anyOf'] ?? [schema]) as JsonSchema[]).map((one) => resolved(one, document)['type']);
  for (const [type, one] of OF_TYPE)
    if (!taken.includes(type) && !(type === 'integer' && taken.includes('number')))
      yield instead(`of type ${type}`, () => one);
  if (taken.length > 1) return;
  const limit = (name: string): number | undefined => schema[name] as number | undefined;
  if (taken[0] === 'string')
    for (const text of wrongTexts(schema)) yield instead(JSON.stringify(text.slice(0, 40)), () => text);
  if (schema['const'] === true) yield instead('false', () => false);
  if (limit('minimum') !== undefined) yield instead('too small', () => limit('minimum')! - 1);
  if (limit('maximum') !== undefined) yield instead('too large', () => limit('maximum')! + 1);
  if (Array.isArray(value)) {
    const [first] = value as readonly Json[];
    if (limit('minItems') === 1) yield instead('empty', () => []);
    if (limit('maxItems') !== undefined && first !== undefined)
      yield instead('too many', () => Array<Json>(limit('maxItems')! + 1).fill(first));
    for (const [n, one] of (value as readonly Json[]).entries())
      yield* spoilt(document, schema['items'] as JsonSchema, one, `${at}/${n}`, (changed) =>
        within((value as readonly Json[]).with(n, changed)),
      );
  } else if (typeof value === 'object' && value !== null) {
    const members = value as Members;
    const properties = schema['properties'] as Record<string, JsonSchema>;
    for (const name of (schema['required'] ?? []) as string[])
      yield instead(`without ${name}`, () =>
        Object.fromEntries(Object.entries(members).filter(([own]) => own !== name)),
      );
    if (schema['additionalProperties'] === false)
      for (const name of ['unknown', 'Email', 'scope ', 'constructor', '__proto__'])
        yield instead(`with ${name}`, () => withMember(members, name, true));
    if (limit('minProperties') === 1) yield instead('with nothing', () => ({}));
    if (limit('maxProperties') === 1)
      yield instead('with two members', () =>
        withMember(
          members,
          Object.keys(properties).find((name) => !Object.hasOwn(members, name))!,
          'x',
        ),
      );
    for (const [name, one] of Object.entries(members))
      yield* spoilt(document, properties[name]!, one, `${at}/${name}`, (changed) =>
        within(withMember(members, name, changed)),
      );
  }
}

/** Wrong values of a parameter, which is always text. */
function wrongParameters(schema: JsonSchema): string[] {
  if (schema['type'] !== 'integer' && schema['type'] !== 'number') return wrongTexts(schema);
  const { maximum } = schema;
  return [
    '',
    'x',
    '-1',
    '1e1',
    '0x10',
    ' 1',
    '1 ',
    '+1',
    '٣',
    ...(schema['type'] === 'integer' ? ['0', '1.5', '1.0'] : []),
    ...(typeof maximum === 'number' ? [String(maximum + 1)] : []),
  ];
}

const SPOILT_TEXTS: readonly (readonly [what: string, text: (body: string) => string])[] = [
  ['cut short', (body) => body.slice(0, -1)],
  ['with something behind it', (body) => `${body}]`],
  ['twice', (body) => `${body}${body}`],
  ['with a comma too many', (body) => body.replace(/}$/, ',}')],
  ['with a member twice', (body) => body.replace(/^\{("\w+":)/, '{$10,$1')],
  ['in single quotes', (body) => body.replaceAll('"', "'")],
  ['with a mark before it', (body) => `\ufeff${body}`],
  ['without a body', () => ''],
  ['with half a character', (body) => body.replace('{', '{"\\ud800":1,')],
];
const WRONG_TYPES = [
  'text/plain',
  'application/x-www-form-urlencoded',
  'application/json; charset=utf-16',
  'application/jsonp',
  '',
];

/** Every single fault of a good call. */
export function* singleFaults(document: OpenApi, call: Call): Generator<Fault> {
  for (const { name, in: where, schema, required } of call.operation.parameters ?? []) {
    const of = ({ path: 'params', query: 'query', header: 'headers' } as const)[where];
    const changed = (value: string | undefined): Call => {
      const { [name]: _, ...others } = call[of];
      return { ...call, [of]: value === undefined ? others : { ...others, [name]: value } };
    };
    if (where === 'query' && required === true)
      yield { what: `without ${name}`, sent: () => write(changed(undefined)) };
    if (where === 'query')
      yield {
        what: `${name} twice`,
        sent: () => {
          const sent = write(changed('1'));
          return { ...sent, target: `${sent.target}&${name}=1` };
        },
      };
    for (const text of wrongParameters(resolved(schema, document)))
      // What a header cannot carry at all is not sent; an empty step of a path would be another path.
      if (where === 'header' ? /^[\x20-\x7e]+$/.test(text) : where === 'query' || text !== '')
        yield { what: `${name}=${JSON.stringify(text.slice(0, 40))}`, sent: () => write(changed(text)) };
  }
  const schema = call.operation.requestBody?.content['application/json']!.schema;
  if (schema === undefined) return;
  for (const [what, body] of spoilt(document, schema, call.body!))
    yield { what, sent: () => write({ ...call, body: body() }), bySchema: true };
  const sent = write(call);
  for (const [what, text] of SPOILT_TEXTS) yield { what, sent: () => ({ ...sent, body: text(sent.body!) }) };
  for (const type of WRONG_TYPES)
    yield {
      what: `as ${type}`,
      sent: () => ({ ...sent, headers: { ...sent.headers, 'content-type': type } }),
    };
}
