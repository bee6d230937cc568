// `npm run openapi`: writes the documents and the client's types that are committed, for when a resource has changed.
import { writeFileSync } from 'node:fs';
import { servedVersions } from '../version.ts';
import { VERSIONS } from '../versions.ts';
import { clientTypes } from './client-types.ts';
import { toOpenApi, toText } from './openapi.ts';

for (const name of servedVersions(VERSIONS)) {
  const document = toOpenApi(name, VERSIONS);
  writeFileSync(`docs/openapi-${name}.json`, toText(document));
  writeFileSync(`client/openapi-${name}.ts`, await clientTypes(document));
}
