// `npm run openapi`: writes the document that is committed, after a resource changed.
import { writeFileSync } from 'node:fs';
import { operationsOf } from '../versions.ts';
import { toOpenApi, toText } from './openapi.ts';

writeFileSync('docs/openapi.json', toText(toOpenApi(operationsOf('v1'))));
