"""Hearing what happens and writing to Novas are rights of their own; the roles get them."""

from importlib import import_module

from django.db import migrations


def make_roles(apps, schema_editor):
    import_module("workflow.migrations.0003_roles").make_roles(apps, schema_editor)


class Migration(migrations.Migration):
    dependencies = [
        ("workflow", "0007_executors"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="nova",
            options={"permissions": [("hear_events", "Can hear what happens, as it happens")]},
        ),
        migrations.RunPython(make_roles, migrations.RunPython.noop),
    ]
