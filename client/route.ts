// The calls of every version, as types: what each takes and what it answers. Nothing of this exists at run time.
import type { paths as V1 } from './openapi-v1.ts';
import type { paths as V2 } from './openapi-v2.ts';

type Paths = V1 & V2;
type Path = keyof Paths;
type Method = 'get' | 'post';
type Json<T> = T extends { content: { 'application/json': infer Body } } ? Body : never;

type Answers<Operation> = Operation extends { responses: infer Responses }
  ? Json<Responses[keyof Responses & (200 | 201 | 202)]>
  : never;

/** JSON, or nothing, goes in, and JSON comes out: a file or a stream of events is another matter. */
type IsCall<Operation> = [Answers<Operation>] extends [never]
  ? false
  : Operation extends { requestBody: infer Body }
    ? [Json<Body>] extends [never]
      ? false
      : true
    : true;

/** `GET /v2/opt-outs/{id}`: every call that takes and gives JSON. */
export type Route = {
  [P in Path]: {
    [M in Method]: IsCall<Paths[P][M]> extends true ? `${Uppercase<M>} ${P}` : never;
  }[Method];
}[Path];

type OperationOf<R extends Route> = R extends `GET ${infer P extends Path}`
  ? Paths[P]['get']
  : R extends `POST ${infer P extends Path}`
    ? Paths[P]['post']
    : never;

export type AnswerOf<R extends Route> = Answers<OperationOf<R>>;

type Part<R extends Route, Where extends 'path' | 'query' | 'header'> =
  OperationOf<R> extends { parameters: infer Parameters }
    ? Where extends keyof Parameters
      ? Parameters[Where]
      : undefined
    : undefined;

type BodyOf<R extends Route> = OperationOf<R> extends { requestBody: infer Body } ? Json<Body> : undefined;

/** A member that must be given, may be left out, or is not there. */
type Member<Name extends string, T> = [T] extends [undefined]
  ? { readonly [N in Name]?: never }
  : undefined extends T
    ? { readonly [N in Name]?: T }
    : { readonly [N in Name]: T };

/** `T` if the operation has this header. */
type IfHeader<R extends Route, Header extends string, T> = [Part<R, 'header'>] extends [undefined]
  ? unknown
  : Header extends keyof NonNullable<Part<R, 'header'>>
    ? T
    : unknown;

export type Keyed = {
  /** Your name for this one request, 1 to 255 visible ASCII characters; absent: the client makes one up. */
  readonly idempotencyKey?: string | undefined;
};
export type Waiting = {
  /** Holds the answer until every required store has confirmed, or for this long: at most 30. */
  readonly waitSeconds?: number | undefined;
};

/** What a call is made with: the members that its operation has. */
export type RequestOf<R extends Route> = Member<'path', Part<R, 'path'>> &
  Member<'query', Part<R, 'query'>> &
  Member<'body', BodyOf<R>> &
  IfHeader<R, 'Idempotency-Key', Keyed> &
  IfHeader<R, 'Prefer', Waiting>;
