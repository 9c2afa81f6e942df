"""How PostgreSQL keeps the tables that change all the time (docs/decisions/0011): room for the next version of a row beside it,
and no second index on text keys, which Django makes for LIKE and nothing here asks for."""

from django.db import migrations

ROOM = {
    "workflow_task": 60,
    "workflow_execution": 60,
    "workflow_novastate": 40,
    "safety_journalhead": 40,
    "safety_safetystate": 60,
    "workflow_taskstatistics": 40,
}


def shape(apps, schema_editor):
    if schema_editor.connection.vendor != "postgresql":
        return
    with schema_editor.connection.cursor() as cursor:
        for table, percent in ROOM.items():
            cursor.execute(f"ALTER TABLE {table} SET (fillfactor = {percent})")
        cursor.execute("SELECT indexname, tablename FROM pg_indexes WHERE schemaname = current_schema()")
        for name, table in cursor.fetchall():
            if name.endswith("_like") and table.startswith(("workflow_", "safety_")):
                cursor.execute(f'DROP INDEX "{name}"')


class Migration(migrations.Migration):
    dependencies = [("workflow", "0003_roles")]

    operations = [migrations.RunPython(shape, migrations.RunPython.noop)]
