"""The roles get their rights to reports, and a schedule of django-q2 makes those that are due."""

from importlib import import_module

from django.db import migrations, models


def make_roles(apps, schema_editor):
    import_module("workflow.migrations.0003_roles").make_roles(apps, schema_editor)


def make_schedule(apps, schema_editor):
    Schedule = apps.get_model("django_q", "Schedule")
    Schedule.objects.get_or_create(
        name="make-reports",
        defaults={"func": "reporting.jobs.make_due_reports", "schedule_type": "I", "minutes": 1, "repeats": -1},
    )


class Migration(migrations.Migration):
    dependencies = [
        ("reporting", "0001_figures"),
        ("workflow", "0008_hear_and_write"),
        ("django_q", "0019_alter_task_options_alter_ormq_key_alter_ormq_lock_and_more"),
    ]

    operations = [
        migrations.AddField("rollupcursor", "first_id", models.BigIntegerField(null=True)),
        migrations.RunPython(make_roles, migrations.RunPython.noop),
        migrations.RunPython(make_schedule, migrations.RunPython.noop),
    ]
