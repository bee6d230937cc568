#!/bin/sh
# Roles and databases of docker-compose.yml, made by the postgres image when its volume is empty. The owner migrates, the API
# records, Debezium reads what is captured; the store and the registry have databases of their own.
set -eu
psql -v ON_ERROR_STOP=1 -U postgres \
  -v owner="$ABIDE_OWNER_PASSWORD" -v api="$ABIDE_API_PASSWORD" -v replication="$ABIDE_REPLICATION_PASSWORD" \
  -v crm="$CRM_PASSWORD" -v registry="$REGISTRY_PASSWORD" <<'SQL'
create role abide_owner login password :'owner';
create role abide_api login password :'api';
create role abide_replication login replication password :'replication';
create database abide owner abide_owner;
create role crm login password :'crm';
create database crm owner crm;
create role registry login password :'registry';
create database registry owner registry;
SQL
